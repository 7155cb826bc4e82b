//! The findings. Pure.

use cframe_pki::renewal::{days_left, expires_soon};

use super::{Captured, Certificate, Facts, Finding, ForwardPolicy};
use crate::status::{LinkStatus, RouteStatus, Status};

/// Bytes that a link adds to an inner packet over IPv4: IP 20, UDP 8, QUIC at most 27, AEAD 16.
const OVERHEAD: i64 = 71;

/// Judges all facts, in the order in which one would fix them.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![daemon(facts), clock(facts), certificate(facts)];
    findings.extend(snapshot(facts));
    findings.extend(forwarding(facts));
    findings.push(forward_policy(facts));
    findings.extend(firewalld(facts));
    if let Some(status) = &facts.daemon {
        findings.push(controller(status));
        findings.extend(device(status));
        findings.push(routes(status));
        findings.extend(source(status));
        findings.extend(overlaps(status));
        findings.extend(captured(facts));
        findings.extend(status.links.iter().map(|link| reachable(status, link)));
        findings.extend(mtu(facts, status));
        let problems = status.problems.iter();
        findings.extend(problems.map(|problem| Finding::bad("problem", problem, "see the log")));
    }
    findings
}

fn daemon(facts: &Facts) -> Finding {
    if let Some(status) = &facts.daemon {
        return Finding::good("daemon", format!("{} runs as pid {}", status.id, status.pid));
    }
    let found = facts.daemon_error.as_deref().unwrap_or("cframe-edge isn't running");
    let fix = "start it: systemctl start cframe-edge, or cframe-edge run; the other lines are what can \
               be checked without it";
    Finding::bad("daemon", found, fix)
}

fn clock(facts: &Facts) -> Finding {
    let now = facts.clock;
    let not_before = facts.certificate.map_or(0, |certificate| certificate.not_before);
    let saved = facts.snapshot_saved.unwrap_or(0);
    let behind = if now < not_before {
        Some(format!("at least {} s behind the controller's clock", not_before - now))
    } else if now + 60 < saved {
        Some(format!("{} s behind the time of the saved state", saved - now))
    } else {
        None
    };
    if let Some(found) = behind {
        let fix = "set the clock, and synchronise it with chrony or systemd-timesyncd";
        return Finding::bad("clock", found, fix);
    }
    let found = match facts.synchronised {
        Some(true) => "synchronised",
        // Not an error: in containers and some clouds the host's clock is synchronised from outside.
        Some(false) => "plausible; not synchronised according to the kernel",
        None => "plausible; the kernel's synchronisation state cannot be read here",
    };
    Finding::good("clock", found)
}

fn certificate(facts: &Facts) -> Finding {
    let check = "certificate";
    let Some(Certificate { not_before, not_after }) = facts.certificate else {
        let found = facts.certificate_error.as_deref().unwrap_or("none");
        return Finding::bad(check, found, "join: cfctl token create, then cframe-edge join TOKEN");
    };
    let left = days_left(not_after, facts.clock);
    if facts.clock > not_after {
        let fix = "make a token with cfctl token create --rejoin, and join again";
        return Finding::bad(check, format!("expired {} days ago", -left), fix);
    }
    if expires_soon(not_before, not_after, facts.clock) {
        let fix = "a controller must be reachable for the renewal: see the line of the controller";
        return Finding::bad(check, format!("{left} days left, and not renewed"), fix);
    }
    Finding::good(check, format!("{left} days left"))
}

fn snapshot(facts: &Facts) -> Option<Finding> {
    let error = facts.snapshot_error.as_deref()?;
    let fix = "it is replaced once a controller is reached; the file can be removed";
    Some(Finding::bad("saved state", error, fix))
}

fn forwarding(facts: &Facts) -> Vec<Finding> {
    let own = facts.daemon.iter().flat_map(|status| &status.state.own);
    let v6 = own.clone().any(|net| net.contains(':'));
    let v4 = own.clone().any(|net| !net.contains(':')) || facts.daemon.is_none();
    let mut findings = Vec::new();
    if v4 {
        let fix = "sysctl -w net.ipv4.ip_forward=1, or forwarding = \"set\" in the configuration";
        findings.push(match facts.forward_v4 {
            Some(0) => Finding::bad("ip_forward", "off: hosts of this site cannot be reached", fix),
            _ => Finding::good("ip_forward", "on"),
        });
    }
    if v6 {
        let found = "off: hosts of this site cannot be reached over IPv6";
        let fix = "set accept_ra=2 where it is 1, then sysctl -w net.ipv6.conf.all.forwarding=1";
        findings.push(match facts.forward_v6 {
            Some(0) => Finding::bad("IPv6 forwarding", found, fix),
            _ => Finding::good("IPv6 forwarding", "on"),
        });
    }
    findings
}

fn forward_policy(facts: &Facts) -> Finding {
    let check = "FORWARD policy";
    match &facts.forward_policy {
        Some(ForwardPolicy::Accept) => Finding::good(check, "nothing drops by default"),
        Some(ForwardPolicy::Drop(chains)) => {
            let device = facts.daemon.as_ref().map_or("cframe0", |status| &status.device.name);
            let fix = format!(
                "allow the tunnel, unless a rule already does: iptables -I FORWARD -i {device} -j \
                 ACCEPT; iptables -I FORWARD -o {device} -j ACCEPT"
            );
            Finding::bad(check, format!("drop in {}", chains.join(", ")), fix)
        }
        Some(ForwardPolicy::Unknown(why)) => {
            Finding::good(check, format!("cannot be read here ({why})"))
        }
        None => Finding::good(check, "not checked"),
    }
}

fn firewalld(facts: &Facts) -> Option<Finding> {
    let zone = facts.firewalld_zone.as_deref()?;
    if !zone.is_empty() {
        return Some(Finding::good("firewalld", format!("zone {zone}")));
    }
    let found = "the device is in no zone, so the rules of the default zone apply to it";
    let fix =
        "firewall-cmd --permanent --zone=trusted --add-interface=DEVICE; firewall-cmd --reload";
    Some(Finding::bad("firewalld", found, fix))
}

fn controller(status: &Status) -> Finding {
    if let Some(address) = &status.controller.connected {
        return Finding::good("controller", format!("session with {address}"));
    }
    let found = status.controller.error.as_deref().unwrap_or("no session yet");
    let addresses = status.controller.addresses.join(" or ");
    let fix = match &status.state.cut_off {
        Some(_) => "the edge is cut off: join again with a new token".to_owned(),
        None => format!("allow UDP to {addresses}; meanwhile traffic continues by the saved state"),
    };
    Finding::bad("controller", found, fix)
}

fn device(status: &Status) -> Option<Finding> {
    if let Some(reason) = &status.state.cut_off {
        let fix = "make a token with cfctl token create, and join again";
        return Some(Finding::bad("membership", format!("cut off: {reason}"), fix));
    }
    let found = format!("{} is missing", status.device.name);
    let fix = "cframe-edge makes it again; if it does not, see the log";
    (!status.device.present).then(|| Finding::bad("device", found, fix))
}

fn routes(status: &Status) -> Finding {
    let RouteStatus { table, intended, installed, missing, stale, error, .. } = &status.routes;
    let found = format!("{installed} of {intended} installed");
    if installed == intended && stale.is_empty() {
        return Finding::good("routes", found);
    }
    let wrong: Vec<&str> = missing.iter().chain(stale).map(String::as_str).collect();
    let fix = error.clone().unwrap_or_else(|| {
        format!("cframe-edge repairs them within 30 s; see ip route show table {table}")
    });
    Finding::bad("routes", format!("{found}; wrong: {}", wrong.join(", ")), fix)
}

fn source(status: &Status) -> Option<Finding> {
    let lacks = |v6: bool| {
        status.state.own.iter().any(|net| net.contains(':') == v6)
            && !status.routes.sources.iter().any(|ip| ip.is_ipv6() == v6)
    };
    let found = "this host has no address inside its site's prefixes: it forwards, but cannot itself \
                 communicate with the mesh";
    (lacks(false) || lacks(true)).then(|| Finding::good("own address", found))
}

fn overlaps(status: &Status) -> Vec<Finding> {
    let fix = "the local network takes precedence; renumber one of them (docker: \
               default-address-pools), or make the prefix smaller with cfctl";
    let overlaps = status.routes.overlaps.iter();
    overlaps.map(|overlap| Finding::bad("overlap", overlap, fix)).collect()
}

fn captured(facts: &Facts) -> Vec<Finding> {
    let judge = |captured: &Captured| {
        let check = "endpoint";
        let what = format!("{} lies inside another site's prefix", captured.address);
        let device = captured.device.as_deref().unwrap_or("?");
        let strict = facts.strict_filters.iter().any(|strict| strict == device);
        if !captured.bypassed {
            let fix = "a rule before the rule of cframe-edge routes marked packets into the tunnel: \
                       see ip rule";
            Finding::bad(check, format!("{what}, and its packets enter the tunnel"), fix)
        } else if captured.address.is_ipv4() && strict {
            let fix = format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2");
            let found = format!("{what}, and rp_filter of {device} drops its answers");
            Finding::bad(check, found, fix)
        } else {
            Finding::good(check, format!("{what}; its packets leave by {device} nevertheless"))
        }
    };
    facts.captured.iter().map(judge).collect()
}

fn reachable(status: &Status, link: &LinkStatus) -> Finding {
    let peer = &link.peer;
    if link.up {
        let (rtt, loss) = (link.rtt_us / 1000, link.loss * 100.0);
        return Finding::good("link", format!("{peer}: up, {rtt} ms, {loss:.1} % loss"));
    }
    let reason = link.reason.as_deref().unwrap_or("no answer");
    let fix = match link.addresses.first() {
        // There was an answer, so no port has to be opened.
        _ if reason.contains("certificate") => format!(
            "see cfctl cert list for valid certificates; to bring {peer} back: cfctl token create, and join"
        ),
        Some(address) => format!(
            "allow UDP to {address} on both sides (security groups too), and run doctor on {peer}"
        ),
        None => format!(
            "{peer} has no endpoint and has to dial this edge: allow UDP port {} in, and give this edge \
             an endpoint",
            status.listen
        ),
    };
    Finding::bad("link", format!("{peer}: down, {reason}"), fix)
}

fn mtu(facts: &Facts, status: &Status) -> Vec<Finding> {
    let tun = usize::from(status.device.mtu);
    let mut findings = Vec::new();
    for link in status.links.iter().filter(|link| link.up && link.largest_inner < tun) {
        let LinkStatus { peer, largest_inner, .. } = link;
        let found = format!(
            "{peer}: packets up to {largest_inner} bytes are sent whole; larger ones, up to {tun}, are \
             fragmented"
        );
        findings.push(Finding::good("MTU", found));
    }
    for (device, mtu) in &facts.device_mtu {
        if *mtu < 1280 {
            let fix = format!("ip link set {device} mtu 1500, or at least 1280");
            let found = format!("{device}: {mtu}, less than QUIC needs");
            findings.push(Finding::bad("MTU", found, fix));
        } else if *mtu - OVERHEAD < i64::from(status.device.mtu) {
            let found = format!("{device}: {mtu}; packets of {tun} bytes are fragmented");
            findings.push(Finding::good("MTU", found));
        }
    }
    findings
}

#[cfg(test)]
mod tests;

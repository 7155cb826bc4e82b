//! The findings. Pure.

use super::{Captured, Facts, Finding, ForwardPolicy};
use crate::status::{LinkStatus, Status};

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
    match (&facts.daemon, &facts.daemon_error) {
        (Some(status), _) => {
            Finding::good("daemon", format!("{} runs as pid {}", status.id, status.pid))
        }
        (None, error) => Finding::bad(
            "daemon",
            error.as_deref().unwrap_or("cframe-edge isn't running"),
            "start it: systemctl start cframe-edge, or cframe-edge run; the other lines are what can be \
             checked without it",
        ),
    }
}

fn clock(facts: &Facts) -> Finding {
    let now = facts.clock;
    let fix = "set the clock, and synchronise it with chrony or systemd-timesyncd";
    if let Some(certificate) = facts.certificate
        && now < certificate.not_before
    {
        let behind = certificate.not_before - now;
        return Finding::bad(
            "clock",
            format!("at least {behind} s behind the controller's clock"),
            fix,
        );
    }
    if let Some(saved) = facts.snapshot_saved
        && now + 60 < saved
    {
        return Finding::bad(
            "clock",
            format!("{} s behind the time of the saved state", saved - now),
            fix,
        );
    }
    match facts.synchronised {
        Some(true) => Finding::good("clock", "synchronised"),
        // Not an error: in containers and some clouds the host's clock is synchronised from outside.
        Some(false) => {
            Finding::good("clock", "plausible; not synchronised according to the kernel")
        }
        None => Finding::good(
            "clock",
            "plausible; the kernel's synchronisation state cannot be read here",
        ),
    }
}

fn certificate(facts: &Facts) -> Finding {
    let Some(certificate) = facts.certificate else {
        let error = facts.certificate_error.as_deref().unwrap_or("none");
        return Finding::bad(
            "certificate",
            error,
            "join: cfctl token create, then cframe-edge join TOKEN",
        );
    };
    let left = cframe_pki::renewal::days_left(certificate.not_after, facts.clock);
    if facts.clock > certificate.not_after {
        return Finding::bad(
            "certificate",
            format!("expired {} days ago", -left),
            "make a token with cfctl token create --rejoin, and join again",
        );
    }
    if cframe_pki::renewal::expires_soon(certificate.not_before, certificate.not_after, facts.clock)
    {
        return Finding::bad(
            "certificate",
            format!("{left} days left, and not renewed"),
            "a controller must be reachable for the renewal: see the line of the controller",
        );
    }
    Finding::good("certificate", format!("{left} days left"))
}

fn snapshot(facts: &Facts) -> Option<Finding> {
    let error = facts.snapshot_error.as_deref()?;
    Some(Finding::bad(
        "saved state",
        error,
        "it is replaced once a controller is reached; the file can be removed",
    ))
}

fn forwarding(facts: &Facts) -> Vec<Finding> {
    let own = facts.daemon.iter().flat_map(|status| &status.state.own);
    let v6 = own.clone().any(|net| net.contains(':'));
    let v4 = own.clone().any(|net| !net.contains(':')) || facts.daemon.is_none();
    let mut findings = Vec::new();
    if v4 {
        findings.push(match facts.forward_v4 {
            Some(0) => Finding::bad(
                "ip_forward",
                "off: hosts of this site cannot be reached",
                "sysctl -w net.ipv4.ip_forward=1, or forwarding = \"set\" in the configuration",
            ),
            _ => Finding::good("ip_forward", "on"),
        });
    }
    if v6 {
        findings.push(match facts.forward_v6 {
            Some(0) => Finding::bad(
                "IPv6 forwarding",
                "off: hosts of this site cannot be reached over IPv6",
                "set accept_ra=2 where it is 1, then sysctl -w net.ipv6.conf.all.forwarding=1",
            ),
            _ => Finding::good("IPv6 forwarding", "on"),
        });
    }
    findings
}

fn forward_policy(facts: &Facts) -> Finding {
    match &facts.forward_policy {
        Some(ForwardPolicy::Accept) => Finding::good("FORWARD policy", "nothing drops by default"),
        Some(ForwardPolicy::Drop(chains)) => {
            let device =
                facts.daemon.as_ref().map_or("cframe0", |status| status.device.name.as_str());
            Finding::bad(
                "FORWARD policy",
                format!("drop in {}", chains.join(", ")),
                format!(
                    "allow the tunnel, unless a rule already does: iptables -I FORWARD -i {device} -j \
                     ACCEPT; iptables -I FORWARD -o {device} -j ACCEPT"
                ),
            )
        }
        Some(ForwardPolicy::Unknown(why)) => {
            Finding::good("FORWARD policy", format!("cannot be read here ({why})"))
        }
        None => Finding::good("FORWARD policy", "not checked"),
    }
}

fn firewalld(facts: &Facts) -> Option<Finding> {
    let zone = facts.firewalld_zone.as_deref()?;
    Some(match zone {
        "" => Finding::bad(
            "firewalld",
            "the device is in no zone, so the rules of the default zone apply to it",
            "firewall-cmd --permanent --zone=trusted --add-interface=DEVICE; firewall-cmd --reload",
        ),
        zone => Finding::good("firewalld", format!("zone {zone}")),
    })
}

fn controller(status: &Status) -> Finding {
    if let Some(address) = &status.controller.connected {
        return Finding::good("controller", format!("session with {address}"));
    }
    let found = status.controller.error.as_deref().unwrap_or("no session yet");
    let addresses = status.controller.addresses.join(" or ");
    let fix = match &status.state.cut_off {
        Some(_) => "the edge is cut off: join again with a new token".to_owned(),
        None => {
            format!("allow UDP to {addresses}; meanwhile traffic continues by the state on disk")
        }
    };
    Finding::bad("controller", found, fix)
}

fn device(status: &Status) -> Option<Finding> {
    let name = &status.device.name;
    if let Some(reason) = &status.state.cut_off {
        let fix = "make a token with cfctl token create, and join again";
        return Some(Finding::bad("membership", format!("cut off: {reason}"), fix));
    }
    (!status.device.present).then(|| {
        Finding::bad(
            "device",
            format!("{name} is missing"),
            "cframe-edge makes it again; if it does not, see the log",
        )
    })
}

fn routes(status: &Status) -> Finding {
    let routes = &status.routes;
    let found = format!("{} of {} installed", routes.installed, routes.intended);
    if routes.installed == routes.intended && routes.stale.is_empty() {
        return Finding::good("routes", found);
    }
    let wrong: Vec<&str> = routes.missing.iter().chain(&routes.stale).map(String::as_str).collect();
    Finding::bad(
        "routes",
        format!("{found}; wrong: {}", wrong.join(", ")),
        routes.error.clone().unwrap_or_else(|| {
            format!(
                "cframe-edge repairs them within 30 s; see ip route show table {}",
                routes.table
            )
        }),
    )
}

fn source(status: &Status) -> Option<Finding> {
    let families =
        [false, true].map(|v6| status.state.own.iter().any(|net| net.contains(':') == v6));
    let lacks = |v6: bool| {
        families[usize::from(v6)] && !status.routes.sources.iter().any(|ip| ip.is_ipv6() == v6)
    };
    (lacks(false) || lacks(true)).then(|| {
        Finding::good(
            "own address",
            "this host has no address inside its site's prefixes: it forwards, but has no connection to the mesh itself",
        )
    })
}

fn overlaps(status: &Status) -> Vec<Finding> {
    let overlaps = status.routes.overlaps.iter();
    overlaps
        .map(|overlap| {
            Finding::bad(
                "overlap",
                overlap,
                "the local network takes precedence; renumber one of them (docker: \
                 default-address-pools), or make the prefix smaller with cfctl",
            )
        })
        .collect()
}

fn captured(facts: &Facts) -> Vec<Finding> {
    let strict = |device: &Option<String>| {
        device.as_ref().is_some_and(|device| facts.strict_filters.contains(device))
    };
    let judge = |captured: &Captured| {
        let what = format!("{} lies inside another site's prefix", captured.address);
        let device = captured.device.as_deref().unwrap_or("?");
        if !captured.bypassed {
            let fix = "a rule before the rule of cframe-edge routes marked packets into the tunnel: see ip rule";
            Finding::bad("endpoint", format!("{what}, and its packets enter the tunnel"), fix)
        } else if captured.address.is_ipv4() && strict(&captured.device) {
            let fix = format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2");
            Finding::bad(
                "endpoint",
                format!("{what}, and rp_filter of {device} drops its answers"),
                fix,
            )
        } else {
            Finding::good("endpoint", format!("{what}; its packets leave by {device} nevertheless"))
        }
    };
    facts.captured.iter().map(judge).collect()
}

fn reachable(status: &Status, link: &LinkStatus) -> Finding {
    if link.up {
        let rtt = link.rtt_us / 1000;
        return Finding::good(
            "link",
            format!("{}: up, {rtt} ms, {:.1} % loss", link.peer, link.loss * 100.0),
        );
    }
    let reason = link.reason.as_deref().unwrap_or("no answer");
    let fix = match link.addresses.first() {
        // There was an answer, so no port has to be opened.
        _ if reason.contains("certificate") => format!(
            "see cfctl cert list for valid certificates; to bring {} back: cfctl token create, and join",
            link.peer
        ),
        Some(address) => format!(
            "allow UDP to {address} on both sides (security groups too), and run doctor on {}",
            link.peer
        ),
        None => format!(
            "{} has no endpoint and has to dial this edge: allow UDP port {} in, and give this edge an endpoint",
            link.peer, status.listen
        ),
    };
    Finding::bad("link", format!("{}: down, {reason}", link.peer), fix)
}

fn mtu(facts: &Facts, status: &Status) -> Vec<Finding> {
    let tun = usize::from(status.device.mtu);
    let mut findings = Vec::new();
    for link in status.links.iter().filter(|link| link.up && link.largest_inner < tun) {
        findings.push(Finding::good(
            "MTU",
            format!(
                "{}: packets up to {} bytes are sent whole; larger ones, up to {tun}, are fragmented",
                link.peer, link.largest_inner
            ),
        ));
    }
    for (device, mtu) in &facts.device_mtu {
        if *mtu < 1280 {
            let fix = format!("ip link set {device} mtu 1500, or at least 1280");
            findings.push(Finding::bad(
                "MTU",
                format!("{device}: {mtu}, less than QUIC needs"),
                fix,
            ));
        } else if *mtu - OVERHEAD < i64::from(status.device.mtu) {
            let found = format!("{device}: {mtu}; packets of {tun} bytes are fragmented");
            findings.push(Finding::good("MTU", found));
        }
    }
    findings
}

#[cfg(test)]
mod tests;

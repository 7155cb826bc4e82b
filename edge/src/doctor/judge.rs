//! The verdicts. Pure.

use super::{Facts, ForwardPolicy, Verdict};
use crate::status::{LinkStatus, Status};

/// Overhead of a link around an inner packet over IPv4: IP 20, UDP 8, QUIC at most 27 and AEAD 16.
const OVERHEAD: i64 = 71;

/// Judges everything that was found, in the order in which one would mend it.
pub fn verdicts(facts: &Facts) -> Vec<Verdict> {
    let mut verdicts = vec![daemon(facts), clock(facts), certificate(facts)];
    verdicts.extend(snapshot(facts));
    verdicts.extend(forwarding(facts));
    verdicts.push(forward_policy(facts));
    verdicts.extend(firewalld(facts));
    if let Some(status) = &facts.daemon {
        verdicts.push(controller(status));
        verdicts.extend(device(status));
        verdicts.push(routes(status));
        verdicts.extend(source(status));
        verdicts.extend(overlaps(status));
        verdicts.extend(captured(facts));
        verdicts.extend(status.links.iter().map(|link| reachable(status, link)));
        verdicts.extend(mtu(facts, status));
        let problems = status.problems.iter();
        verdicts.extend(problems.map(|problem| Verdict::bad("reported", problem, "see the log")));
    }
    verdicts
}

fn daemon(facts: &Facts) -> Verdict {
    match (&facts.daemon, &facts.daemon_error) {
        (Some(status), _) => {
            Verdict::good("daemon", format!("{} runs as pid {}", status.id, status.pid))
        }
        (None, error) => Verdict::bad(
            "daemon",
            error.as_deref().unwrap_or("cframe-edge isn't running"),
            "start it: systemctl start cframe-edge, or cframe-edge run; what follows is what can be \
             seen without it",
        ),
    }
}

fn clock(facts: &Facts) -> Verdict {
    let now = facts.clock;
    let mend = "set the clock, and keep it with chrony or systemd-timesyncd";
    if let Some(certificate) = facts.certificate
        && now < certificate.not_before
    {
        let behind = certificate.not_before - now;
        return Verdict::bad("clock", format!("at least {behind} s behind the controller's"), mend);
    }
    if let Some(saved) = facts.snapshot_saved
        && now + 60 < saved
    {
        return Verdict::bad(
            "clock",
            format!("{} s before the last saved state", saved - now),
            mend,
        );
    }
    match facts.synchronised {
        Some(true) => Verdict::good("clock", "synchronised"),
        // Not wrong by itself: in containers and some clouds somebody else keeps the clock.
        Some(false) => Verdict::good("clock", "plausible; the kernel knows of no synchronisation"),
        None => Verdict::good("clock", "plausible; whether it is synchronised cannot be read here"),
    }
}

fn certificate(facts: &Facts) -> Verdict {
    let Some(certificate) = facts.certificate else {
        let error = facts.certificate_error.as_deref().unwrap_or("none");
        return Verdict::bad(
            "certificate",
            error,
            "join: cfctl token create, then cframe-edge join TOKEN",
        );
    };
    let left = cframe_pki::renewal::days_left(certificate.not_after, facts.clock);
    if facts.clock > certificate.not_after {
        return Verdict::bad(
            "certificate",
            format!("expired {} days ago", -left),
            "make a token with cfctl token create --rejoin, and join again",
        );
    }
    if cframe_pki::renewal::expires_soon(certificate.not_before, certificate.not_after, facts.clock)
    {
        return Verdict::bad(
            "certificate",
            format!("{left} days left, and not renewed"),
            "a controller must be reachable for the renewal: see the controller's line",
        );
    }
    Verdict::good("certificate", format!("{left} days left"))
}

fn snapshot(facts: &Facts) -> Option<Verdict> {
    let error = facts.snapshot_error.as_deref()?;
    Some(Verdict::bad(
        "saved state",
        error,
        "it is replaced when a controller has been reached; remove the file if it is in the way",
    ))
}

fn forwarding(facts: &Facts) -> Vec<Verdict> {
    let own = facts.daemon.iter().flat_map(|status| &status.state.own);
    let v6 = own.clone().any(|net| net.contains(':'));
    let v4 = own.clone().any(|net| !net.contains(':')) || facts.daemon.is_none();
    let mut verdicts = Vec::new();
    if v4 {
        verdicts.push(match facts.forward_v4 {
            Some(0) => Verdict::bad(
                "ip_forward",
                "off: hosts of this site cannot be reached",
                "sysctl -w net.ipv4.ip_forward=1, or forwarding = \"set\" in the configuration",
            ),
            _ => Verdict::good("ip_forward", "on"),
        });
    }
    if v6 {
        verdicts.push(match facts.forward_v6 {
            Some(0) => Verdict::bad(
                "IPv6 forwarding",
                "off: hosts of this site cannot be reached over IPv6",
                "set accept_ra=2 where it is 1, then sysctl -w net.ipv6.conf.all.forwarding=1",
            ),
            _ => Verdict::good("IPv6 forwarding", "on"),
        });
    }
    verdicts
}

fn forward_policy(facts: &Facts) -> Verdict {
    match &facts.forward_policy {
        Some(ForwardPolicy::Accept) => Verdict::good("FORWARD policy", "nothing drops by default"),
        Some(ForwardPolicy::Drop(chains)) => {
            let device =
                facts.daemon.as_ref().map_or("cframe0", |status| status.device.name.as_str());
            Verdict::bad(
                "FORWARD policy",
                format!("drop in {}", chains.join(", ")),
                format!(
                    "let the tunnel through, unless a rule does: iptables -I FORWARD -i {device} -j \
                     ACCEPT; iptables -I FORWARD -o {device} -j ACCEPT"
                ),
            )
        }
        Some(ForwardPolicy::Unknown(why)) => {
            Verdict::good("FORWARD policy", format!("cannot be read here ({why})"))
        }
        None => Verdict::good("FORWARD policy", "not looked at"),
    }
}

fn firewalld(facts: &Facts) -> Option<Verdict> {
    let zone = facts.firewalld_zone.as_deref()?;
    Some(match zone {
        "" => Verdict::bad(
            "firewalld",
            "the device is in no zone, so that the default zone's rules hold for it",
            "firewall-cmd --permanent --zone=trusted --add-interface=DEVICE; firewall-cmd --reload",
        ),
        zone => Verdict::good("firewalld", format!("zone {zone}")),
    })
}

fn controller(status: &Status) -> Verdict {
    if let Some(address) = &status.controller.connected {
        return Verdict::good("controller", format!("session with {address}"));
    }
    let found = status.controller.error.as_deref().unwrap_or("no session yet");
    let addresses = status.controller.addresses.join(" or ");
    let mend = match &status.state.cut {
        Some(_) => "the edge is cut off, and comes back with a new certificate".to_owned(),
        None => format!(
            "let UDP to {addresses} through; traffic goes on meanwhile from the state on disk"
        ),
    };
    Verdict::bad("controller", found, mend)
}

fn device(status: &Status) -> Option<Verdict> {
    let name = &status.device.name;
    if let Some(cut) = &status.state.cut {
        let mend = "make a token with cfctl token create, and join again";
        return Some(Verdict::bad("membership", format!("cut off: {cut}"), mend));
    }
    (!status.device.present).then(|| {
        Verdict::bad(
            "device",
            format!("{name} is missing"),
            "it is made again by itself: see the log",
        )
    })
}

fn routes(status: &Status) -> Verdict {
    let routes = &status.routes;
    let found = format!("{} of {} installed", routes.installed, routes.intended);
    if routes.installed == routes.intended && routes.stale.is_empty() {
        return Verdict::good("routes", found);
    }
    let wrong: Vec<&str> = routes.missing.iter().chain(&routes.stale).map(String::as_str).collect();
    Verdict::bad(
        "routes",
        format!("{found}; wrong: {}", wrong.join(", ")),
        routes.problem.clone().unwrap_or_else(|| {
            format!("they are put right within 30 s; see ip route show table {}", routes.table)
        }),
    )
}

fn source(status: &Status) -> Option<Verdict> {
    let families =
        [false, true].map(|v6| status.state.own.iter().any(|net| net.contains(':') == v6));
    let lacks = |v6: bool| {
        families[usize::from(v6)] && !status.routes.sources.iter().any(|ip| ip.is_ipv6() == v6)
    };
    (lacks(false) || lacks(true)).then(|| {
        Verdict::good(
            "own address",
            "this host has no address inside its site's prefixes: it forwards, and cannot itself speak to the mesh",
        )
    })
}

fn overlaps(status: &Status) -> Vec<Verdict> {
    let overlaps = status.routes.overlaps.iter();
    overlaps
        .map(|overlap| {
            Verdict::bad(
                "overlap",
                overlap,
                "the local network wins where they meet; renumber one of them (docker: \
                 default-address-pools), or narrow the prefix with cfctl",
            )
        })
        .collect()
}

fn captured(facts: &Facts) -> Vec<Verdict> {
    let strict = |device: &Option<String>| {
        device.as_ref().is_some_and(|device| facts.strict_filters.contains(device))
    };
    let judge = |captured: &super::Captured| {
        let what = format!("{} lies inside another site's prefix", captured.address);
        let device = captured.device.as_deref().unwrap_or("?");
        if !captured.saved {
            let mend = "a rule in front of ours takes marked packets into the tunnel: see ip rule";
            Verdict::bad("endpoint", format!("{what}, and its packets enter the tunnel"), mend)
        } else if captured.address.is_ipv4() && strict(&captured.device) {
            let mend = format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2");
            Verdict::bad(
                "endpoint",
                format!("{what}, and rp_filter of {device} drops its answers"),
                mend,
            )
        } else {
            Verdict::good("endpoint", format!("{what}; its packets leave by {device} all the same"))
        }
    };
    facts.captured.iter().map(judge).collect()
}

fn reachable(status: &Status, link: &LinkStatus) -> Verdict {
    if link.up {
        let rtt = link.rtt_us / 1000;
        return Verdict::good(
            "link",
            format!("{}: up, {rtt} ms, {:.1} % loss", link.peer, link.loss * 100.0),
        );
    }
    let reason = link.reason.as_deref().unwrap_or("no answer");
    let mend = match link.addresses.first() {
        // What was answered got through; no port is to be opened.
        _ if reason.contains("certificate") => format!(
            "cfctl cert list has what is valid; if {} is to come back: cfctl token create, and join",
            link.peer
        ),
        Some(address) => format!(
            "let UDP to {address} through on both sides (security groups too), and see {}'s doctor",
            link.peer
        ),
        None => format!(
            "{} has no endpoint and must dial us: let UDP port {} in, and give us an endpoint",
            link.peer, status.listen
        ),
    };
    Verdict::bad("link", format!("{}: down, {reason}", link.peer), mend)
}

fn mtu(facts: &Facts, status: &Status) -> Vec<Verdict> {
    let tun = usize::from(status.device.mtu);
    let mut verdicts = Vec::new();
    for link in status.links.iter().filter(|link| link.up && link.largest_inner < tun) {
        verdicts.push(Verdict::good(
            "MTU",
            format!(
                "{}: the path carries {} bytes whole; larger packets, up to {tun}, go in fragments",
                link.peer, link.largest_inner
            ),
        ));
    }
    for (device, mtu) in &facts.device_mtu {
        if *mtu < 1280 {
            let mend = format!("ip link set {device} mtu 1500, or at least 1280");
            verdicts.push(Verdict::bad(
                "MTU",
                format!("{device}: {mtu}, less than QUIC needs"),
                mend,
            ));
        } else if *mtu - OVERHEAD < i64::from(status.device.mtu) {
            let found = format!("{device}: {mtu}; packets of {tun} bytes go in fragments");
            verdicts.push(Verdict::good("MTU", found));
        }
    }
    verdicts
}

#[cfg(test)]
mod tests;

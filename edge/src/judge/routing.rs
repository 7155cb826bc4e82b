//! The host's routing: whether packets for the mesh go into the tunnel, and what stands in their way.

use cframe_protocol::problem::Code;

use crate::{
    host::{
        backoff::Undone,
        command,
        culprit::who,
        probe::facts::Flow,
        routes::{Bypassed, ForwardingOff, Marked, Overlap, RoutingFacts},
    },
    problem::{Check, Problem},
};

/// Prefixes that one rule bypasses, each a problem of its own; the last one counts the others.
const MAX_BYPASSED: usize = 8;
/// Networks that one sentence names.
const MAX_NAMED: usize = 3;

/// `guarded`: packets that the leak guard drops, as measured.
pub(super) fn checks(facts: &RoutingFacts, guarded: Option<&Flow>) -> Vec<Check> {
    vec![
        kernel(facts),
        ways(facts, guarded),
        forwarding(facts),
        overlaps(facts),
        reserved(facts),
        undone(facts),
        marks(facts),
    ]
}

fn kernel(facts: &RoutingFacts) -> Check {
    let refused = facts.error.iter().map(|error| {
        Problem::new(
            Code::RoutesRefused,
            "",
            format!("the kernel refuses a change of routes: {error}"),
        )
    });
    Check::of("routes", refused.collect(), "as intended")
}

fn ways(facts: &RoutingFacts, guarded: Option<&Flow>) -> Check {
    if let (Some(flow), true) = (guarded, facts.bypassed.is_empty()) {
        let problems = guarded_ways(facts, flow);
        return Check::of("way into the tunnel", problems, "");
    }
    let left = facts.bypassed.len().saturating_sub(MAX_BYPASSED);
    let shown = facts.bypassed.len() - left;
    let mut problems: Vec<Problem> =
        facts.bypassed.iter().take(MAX_BYPASSED).map(bypassed).collect();
    if let (Some(last), true) = (problems.get_mut(shown.saturating_sub(1)), left > 0) {
        last.text.push_str(&format!("; so are {left} more prefixes"));
    }
    Check::of("way into the tunnel", problems, "packets for other sites go into the tunnel")
}

/// Packets have a way around the tunnel, and the kernel, asked for ordinary packets, does not say so:
/// another program gives them a mark, or another destination.
fn guarded_ways(facts: &RoutingFacts, flow: &Flow) -> Vec<Problem> {
    let what = format!("packets ({}) would leave by another device than the tunnel", flow.name());
    let marked: Vec<Problem> = facts
        .bypassed_if_marked
        .iter()
        .filter_map(|found| found.rule.as_ref())
        .map(|(rule, priority)| {
            let text = format!(
                "{what}; they do if another program gives them the mark of the rule \"{}\"",
                rule.text()
            );
            let problem = Problem::new(Code::RouteBypassed, rule.priority.to_string(), text);
            problem.fix(rule.moved_to(*priority))
        })
        .collect();
    if !marked.is_empty() {
        return marked;
    }
    let text =
        format!("{what}, and are dropped by the leak guard; which rule does that is not known");
    vec![
        Problem::new(Code::RouteBypassed, flow.name(), text)
            .fix("look for it in the output of: ip rule, nft list ruleset, iptables-legacy-save"),
    ]
}

fn bypassed(found: &Bypassed) -> Problem {
    let Bypassed { prefix, to, from, iif, device, table, rule } = found;
    let whose = match (iif, from) {
        (Some(iif), Some(from)) => format!("a packet from {from}, coming in by {iif}, to {to}"),
        (_, Some(from)) => format!("a packet of this host from {from} to {to}"),
        _ => format!("a packet to {to}"),
    };
    let where_to = match device {
        Some(device) => format!("would leave by {device} and not by the tunnel"),
        None => "is refused before it reaches the tunnel".to_owned(),
    };
    let cause = match rule {
        Some((rule, _)) => format!("by the rule \"{}\"", rule.text()),
        None => format!("by table {table}"),
    };
    let text = format!("{prefix}: {whose} {where_to}, {cause}");
    let problem = Problem::new(Code::RouteBypassed, prefix.to_string(), text);
    match rule {
        Some((rule, priority)) => problem.fix(rule.moved_to(*priority)),
        None => problem,
    }
}

fn forwarding(facts: &RoutingFacts) -> Check {
    let mut problems: Vec<Problem> = facts.forwarding_off.iter().map(forwarding_off).collect();
    for device in &facts.advertisements_ignored {
        let text = format!(
            "the default route of {device} comes from router advertisements, which a host that forwards ignores"
        );
        let fix = command::sysctl(&format!("ipv6/conf/{device}/accept_ra"), 2);
        problems.push(Problem::new(Code::RouterAdvertisements, device, text).fix_if(fix));
    }
    Check::of("forwarding", problems, "on")
}

fn forwarding_off(off: &ForwardingOff) -> Problem {
    let ForwardingOff { device, key, error } = off;
    let about = device.clone().unwrap_or_default();
    let (fix, key) = (command::sysctl(key, 1), command::setting(key));
    let whose = match device {
        Some(device) => format!("packets that come in by {device} are not forwarded"),
        None => "this host does not forward packets".to_owned(),
    };
    let mut text = format!("{whose}: {key} is 0");
    if let Some(error) = error {
        text.push_str(&format!(", and cannot be set: {error}"));
    }
    Problem::new(Code::ForwardingOff, about, text).fix_if(fix)
}

fn overlaps(facts: &RoutingFacts) -> Check {
    let mut problems: Vec<Problem> =
        facts.overlaps.iter().filter(|overlap| overlap.whole).map(hides).collect();
    let parts = || facts.overlaps.iter().filter(|overlap| !overlap.whole);
    let mut prefixes: Vec<_> = parts().map(|overlap| overlap.prefix).collect();
    prefixes.dedup();
    prefixes.sort();
    prefixes.dedup();
    for prefix in prefixes {
        let inside: Vec<&Overlap> = parts().filter(|overlap| overlap.prefix == prefix).collect();
        let mut named: Vec<String> =
            inside.iter().take(MAX_NAMED).map(|overlap| place(overlap)).collect();
        if inside.len() > MAX_NAMED {
            named.push(format!("{} more", inside.len() - MAX_NAMED));
        }
        let text = format!(
            "{} of this host lie inside {prefix} of another site and take precedence",
            named.join(", ")
        );
        let text = if inside.len() == 1 {
            text.replace(" lie ", " lies ").replace(" take ", " takes ")
        } else {
            text
        };
        let fix =
            "nothing, if these networks are to be reached here; otherwise renumber one of them";
        problems.push(Problem::new(Code::OverlapPart, prefix.to_string(), text).fix(fix));
    }
    Check::of("local networks", problems, "none overlaps the mesh")
}

fn hides(overlap: &Overlap) -> Problem {
    let Overlap { local, prefix, .. } = overlap;
    let text = format!(
        "{} of this host hides {prefix} of another site: packets for it stay here",
        place(overlap)
    );
    let fix = format!("renumber {local} on this host, or {prefix} in the mesh");
    Problem::new(Code::OverlapHides, prefix.to_string(), text).fix(fix)
}

fn place(overlap: &Overlap) -> String {
    let kind = if overlap.route { "the route" } else { "the network" };
    match &overlap.device {
        Some(device) => format!("{kind} {} on {device}", overlap.local),
        None => format!("{kind} {}", overlap.local),
    }
}

fn reserved(facts: &RoutingFacts) -> Check {
    let problems = facts.reserved.iter().map(|reserved| {
        let text = format!(
            "{} contains {} ({}), which is not routed into the mesh",
            reserved.prefix, reserved.net, reserved.what
        );
        Problem::new(Code::ReservedPrefix, reserved.net.to_string(), text)
            .fix("announce smaller prefixes that leave it out: cfctl edge set --cidr")
    });
    Check::of("reserved addresses", problems.collect(), "none is inside a prefix of the mesh")
}

/// Rules that refuse the edge's own packets by their mark. Those that only choose another uplink are the
/// operator's business.
fn marks(facts: &RoutingFacts) -> Check {
    let mut problems: Vec<Problem> = Vec::new();
    for Marked { remote, rule, unmarked_device, .. } in
        facts.marked.iter().filter(|marked| marked.device.is_none())
    {
        let about = format!("rule {}", rule.priority);
        if problems.iter().any(|problem| problem.about == about) {
            continue;
        }
        let other = unmarked_device.as_deref().unwrap_or("no device");
        let text = format!(
            "the rule \"{}\" refuses the edge's own packets by their mark, to {remote} for one; packets \
             without the mark leave by {other}",
            rule.text()
        );
        problems.push(Problem::new(Code::MarkDropped, about, text).fix(rule.exemption()));
    }
    Check::of("mark", problems, "no rule refuses the edge's own packets by it")
}

fn undone(facts: &RoutingFacts) -> Check {
    let mut problems: Vec<Problem> = facts.undone.iter().map(changes_undone).collect();
    if let Some(mtu) = &facts.mtu {
        let text = format!(
            "the MTU of {} is {} and should be {}: {} has set it",
            mtu.device, mtu.is, mtu.should_be, mtu.by
        );
        let fix = command::plain(&mtu.device)
            .map(|device| format!("ip link set {device} mtu {}", mtu.should_be));
        problems.push(Problem::new(Code::DeviceMtu, &mtu.device, text).fix_if(fix));
    }
    Check::of("changes by others", problems, "none")
}

fn changes_undone(undone: &Undone) -> Problem {
    let Undone { what, times_in_a_minute, by, delay } = undone;
    let who = who(by.as_ref());
    let fix = match by {
        Some(by) => format!("stop {}, or exempt cframe in it", by.in_fix()),
        None => "find and stop that program: ip monitor all".to_owned(),
    };
    let text = format!(
        "{who} undoes {what} of the edge: {times_in_a_minute} times in the last minute; a repair now waits \
         {delay:.1?}"
    );
    Problem::new(Code::ChangesUndone, *what, text).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{
        culprit::Culprit,
        routes::{Reserved, WrongMtu},
        rules::{Action, Rule},
    };

    fn problems(facts: &RoutingFacts) -> Vec<Problem> {
        Check::problems(&checks(facts, None))
    }

    fn by_rule(prefix: &str) -> Bypassed {
        let rule = Rule {
            priority: 1000,
            from: Some("172.18.0.0/16".parse().unwrap()),
            action: Action::Table(100),
            ..Rule::default()
        };
        Bypassed {
            prefix: prefix.parse().unwrap(),
            to: "10.2.0.1".parse().unwrap(),
            from: Some("172.18.0.9".parse().unwrap()),
            iif: Some("eth1".to_owned()),
            device: Some("eth0".to_owned()),
            table: 100,
            rule: Some((rule, 6000)),
        }
    }

    #[test]
    fn nothing_is_wrong_without_facts() {
        assert_eq!(problems(&RoutingFacts::default()), []);
    }

    #[test]
    fn a_bypassed_prefix_is_named_with_the_rule_and_the_commands_that_move_it() {
        let facts =
            RoutingFacts { bypassed: vec![by_rule("10.2.0.0/16")], ..RoutingFacts::default() };
        let found = problems(&facts);
        assert_eq!((found[0].code, found[0].about.as_str()), (Code::RouteBypassed, "10.2.0.0/16"));
        assert!(found[0].text.contains("1000: from 172.18.0.0/16 lookup 100"), "{}", found[0].text);
        assert_eq!(
            found[0].fix.as_deref(),
            Some(
                "ip rule add from 172.18.0.0/16 pref 6000 lookup 100; \
                 ip rule del from 172.18.0.0/16 pref 1000 lookup 100"
            )
        );
        let many = (0..20).map(|i| by_rule(&format!("10.{i}.0.0/16"))).collect();
        let found = problems(&RoutingFacts { bypassed: many, ..RoutingFacts::default() });
        assert!(found.len() == 8 && found[7].text.ends_with("12 more prefixes"), "{found:#?}");
    }

    #[test]
    fn a_network_hides_a_whole_prefix_or_a_part() {
        let overlap = |local: &str, prefix: &str, whole| Overlap {
            local: local.parse().unwrap(),
            device: Some("docker0".to_owned()),
            prefix: prefix.parse().unwrap(),
            whole,
            route: false,
        };
        let overlaps = vec![
            overlap("172.30.0.0/16", "172.30.0.0/16", true),
            overlap("10.9.0.0/16", "10.0.0.0/11", false),
            overlap("10.8.0.0/16", "10.0.0.0/11", false),
        ];
        let found = problems(&RoutingFacts { overlaps, ..RoutingFacts::default() });
        let codes: Vec<Code> = found.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, [Code::OverlapHides, Code::OverlapPart]);
        assert!(found[0].text.contains("172.30.0.0/16 on docker0"));
        assert!(found[1].text.contains("10.9.0.0/16") && found[1].text.contains("10.8.0.0/16"));
    }

    #[test]
    fn forwarding_that_is_off_has_a_command_for_any_device() {
        let off = |device: &str| ForwardingOff {
            device: Some(device.to_owned()),
            key: format!("ipv4/conf/{device}/forwarding"),
            error: None,
        };
        let facts = RoutingFacts {
            forwarding_off: vec![off("eth1"), off("eth1.7"), off("$(reboot)")],
            ..RoutingFacts::default()
        };
        let fixes: Vec<_> =
            problems(&facts).into_iter().filter_map(|problem| problem.fix).collect();
        assert_eq!(
            fixes,
            [
                "sysctl -w net.ipv4.conf.eth1.forwarding=1",
                "sysctl -w net/ipv4/conf/eth1.7/forwarding=1"
            ]
        );
    }

    #[test]
    fn whoever_undoes_changes_is_named_and_so_is_a_wrong_mtu_and_a_reserved_address() {
        let by = Some(Culprit { pid: 7, name: "firewalld".to_owned(), parent: None });
        let delay = std::time::Duration::from_secs(5);
        let facts = RoutingFacts {
            undone: vec![Undone { what: "the policy rule", times_in_a_minute: 9, by, delay }],
            mtu: Some(WrongMtu {
                device: "cframe0".to_owned(),
                is: 9000,
                should_be: 1400,
                by: "another program".to_owned(),
            }),
            reserved: vec![Reserved {
                net: "100.100.100.200/32".parse().unwrap(),
                what: "Alibaba Cloud's metadata service",
                prefix: "100.64.0.0/10".parse().unwrap(),
            }],
            ..RoutingFacts::default()
        };
        let found = problems(&facts);
        let codes: Vec<Code> = found.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, [Code::ReservedPrefix, Code::ChangesUndone, Code::DeviceMtu]);
        assert!(found[1].text.contains("firewalld (pid 7)") && found[1].text.contains("9 times"));
        assert_eq!(found[2].fix.as_deref(), Some("ip link set cframe0 mtu 1400"));
    }
}

//! Whether the host forwards between site and mesh, and lets the mesh's own packets pass, as measured.

use cframe_protocol::problem::Code;

use crate::{
    host::{
        command::plain,
        probe::facts::{DeadDevice, Finding, ForwardingFacts, Outcome, PortFacts},
    },
    problem::{Check, Problem},
};

/// Addresses of the host itself that are problems of their own.
const MAX_OWN: usize = 4;

pub fn checks(facts: &ForwardingFacts) -> Vec<Check> {
    let mut checks = vec![forwarding(facts), devices(facts), port(&facts.port)];
    let unmeasured = unmeasured(facts);
    if !unmeasured.is_empty() {
        checks.push(Check::of("measurement", unmeasured, ""));
    }
    checks
}

fn unmeasured(facts: &ForwardingFacts) -> Vec<Problem> {
    let reason = facts.unmeasured.iter().map(|reason| {
        let text = format!("forwarding is not measured in full: {reason}");
        Problem::new(Code::NotMeasured, "", text)
    });
    let own = facts.own_addresses.iter().take(MAX_OWN).map(|net| {
        let text = format!(
            "{net} of this site is this host itself: whether the host's firewall lets packets of the mesh in \
             is not measured"
        );
        Problem::new(Code::NotMeasured, net.to_string(), text)
    });
    reason.chain(own).collect()
}

fn devices(facts: &ForwardingFacts) -> Check {
    let dead = facts.dead.iter().map(|DeadDevice { name, is_down }| {
        let problem = |text: &str| Problem::new(Code::LanDown, name, format!("{name} {text}"));
        match is_down {
            true => {
                let fix = plain(name).map(|name| format!("ip link set {name} up"));
                problem("of this site is down").fix_if(fix)
            }
            false => problem("of this site has no carrier: nothing can be reached by it")
                .fix("put its cable in again, or bring up the device at its other end"),
        }
    });
    Check::of("site's devices", dead.collect(), "each one has a carrier")
}

fn forwarding(facts: &ForwardingFacts) -> Check {
    let mut problems = Vec::new();
    let mut passed = Vec::new();
    for flow in &facts.flows {
        let (code, finding) = match &flow.outcome {
            Outcome::Passed => {
                passed.push(flow.name());
                continue;
            }
            Outcome::Elsewhere | Outcome::Guarded => continue,
            Outcome::Blocked(finding) => (Code::ForwardBlocked, finding),
            Outcome::Partly(finding) => (Code::ForwardPartly, finding),
            Outcome::Masqueraded(finding) => (Code::Masqueraded, finding),
        };
        problems.push(problem(code, flow.name(), finding));
    }
    let good = match passed.is_empty() {
        true => "nothing to measure".to_owned(),
        false => format!("packets pass: {}", passed.join(", ")),
    };
    Check::of("firewall", problems, good)
}

/// A firewall that lets in only answers is right where this edge dials all its peers, so a packet of a
/// new flow that is dropped is a problem only while a peer has no link.
fn port(facts: &PortFacts) -> Check {
    let PortFacts {
        new_blocked,
        link_blocked,
        sending_blocked,
        link_down,
        new_filtered,
        link_filtered,
    } = facts;
    let of_link = link_blocked.as_ref().map(|finding| (finding, *link_filtered));
    let of_new = new_blocked.as_ref().map(|finding| (finding, *new_filtered));
    let incoming = of_link.or(of_new.filter(|_| *link_down));
    let mut problems = Vec::new();
    problems.extend(incoming.map(|(finding, is_filter)| {
        let code = if is_filter { Code::ReplyFiltered } else { Code::PortBlocked };
        problem(code, "in".to_owned(), finding)
    }));
    let sending = sending_blocked.as_ref();
    problems.extend(sending.map(|finding| problem(Code::PortBlocked, "out".to_owned(), finding)));
    Check::of("own packets", problems, "this host's firewall lets the mesh's UDP packets pass")
}

fn problem(code: Code, about: String, finding: &Finding) -> Problem {
    Problem { fix: finding.fix.clone(), ..Problem::new(code, about, &finding.text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::probe::facts::{Direction, Flow};

    fn finding() -> Finding {
        Finding { text: "it is dropped".to_owned(), fix: Some("let it pass".to_owned()) }
    }

    fn codes(facts: &ForwardingFacts) -> Vec<(Code, String)> {
        let problems = Check::problems(&checks(facts));
        problems.into_iter().map(|problem| (problem.code, problem.about)).collect()
    }

    #[test]
    fn each_direction_and_family_that_does_not_pass_is_a_problem_of_its_own() {
        let flow =
            |direction, v6, outcome| Flow { direction, device: "lan0".to_owned(), v6, outcome };
        let facts = ForwardingFacts {
            flows: vec![
                flow(Direction::ToMesh, false, Outcome::Masqueraded(finding())),
                flow(Direction::ToMesh, true, Outcome::Passed),
                flow(Direction::ToSite, false, Outcome::Blocked(finding())),
                flow(Direction::ToSite, true, Outcome::Partly(finding())),
                flow(Direction::ToSite, true, Outcome::Elsewhere),
            ],
            ..ForwardingFacts::default()
        };
        assert_eq!(
            codes(&facts),
            [
                (Code::Masqueraded, "lan0 to mesh, IPv4".to_owned()),
                (Code::ForwardBlocked, "mesh to lan0, IPv4".to_owned()),
                (Code::ForwardPartly, "mesh to lan0, IPv6".to_owned()),
            ]
        );
        assert_eq!(codes(&ForwardingFacts::default()), []);
    }

    #[test]
    fn a_device_without_a_carrier_and_an_address_that_is_not_measured_are_named() {
        let dead = |name: &str, is_down| DeadDevice { name: name.to_owned(), is_down };
        let facts = ForwardingFacts {
            dead: vec![dead("lan0", false), dead("lan1", true), dead("$(reboot)", true)],
            own_addresses: vec!["10.5.0.1/32".parse().unwrap()],
            ..ForwardingFacts::default()
        };
        assert_eq!(
            codes(&facts),
            [
                (Code::LanDown, "lan0".to_owned()),
                (Code::LanDown, "lan1".to_owned()),
                (Code::LanDown, "$(reboot)".to_owned()),
                (Code::NotMeasured, "10.5.0.1/32".to_owned()),
            ]
        );
        let found = Check::problems(&checks(&facts));
        assert_eq!(found[1].fix.as_deref(), Some("ip link set lan1 up"));
        assert_eq!(found[2].fix, None);
    }

    #[test]
    fn a_firewall_that_lets_in_only_answers_is_right_while_all_links_are_up() {
        let mut facts = ForwardingFacts::default();
        facts.port.new_blocked = Some(finding());
        assert_eq!(codes(&facts), []);
        facts.port.link_down = true;
        assert_eq!(codes(&facts), [(Code::PortBlocked, "in".to_owned())]);
        facts.port.link_down = false;
        facts.port.link_blocked = Some(finding());
        facts.port.sending_blocked = Some(finding());
        facts.unmeasured = Some("no nft".to_owned());
        facts.port.link_filtered = true;
        let codes: Vec<Code> = codes(&facts).into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, [Code::ReplyFiltered, Code::PortBlocked, Code::NotMeasured]);
    }
}

use cframe_mesh::{Attempt, PathQuality, Probed, Refused, Side, Why};

use super::*;
use crate::host::rules::Rule;

fn attempt(remote: &str) -> Attempt {
    Attempt::new(remote.parse().unwrap())
}

fn down(attempts: Vec<Attempt>) -> PeerFacts {
    PeerFacts {
        name: "aws-hk".parse().unwrap(),
        joined: true,
        endpoints: vec!["203.0.113.7:58423".parse().unwrap()],
        unresolved: Vec::new(),
        link: LinkState::Down {
            lasts: Duration::from_secs(20),
            timed_out: false,
            dialling: Dialling { attempts, incoming_unfinished: 0 },
        },
        contested: None,
        reached: Vec::new(),
    }
}

fn up(rtt: Duration, silence: Duration, unmarked: bool) -> PeerFacts {
    let remote = Some("203.0.113.7:58423".parse().unwrap());
    PeerFacts {
        link: LinkState::Up { rtt, remote, silence, unmarked, quality: PathQuality::default() },
        ..down(Vec::new())
    }
}

fn facts(peer: PeerFacts) -> LinkFacts {
    LinkFacts {
        namespace: "prod".to_owned(),
        own: "idc".to_owned(),
        own_endpoints: vec!["198.51.100.1:58423".parse().unwrap()],
        own_addresses: vec!["198.51.100.1".parse().unwrap()],
        listen: 58423,
        peers: vec![peer],
        ..LinkFacts::default()
    }
}

fn found(facts: &LinkFacts) -> Vec<Problem> {
    Check::problems(&checks(facts, &[]))
}

/// The one problem.
fn only(peer: PeerFacts) -> (Code, String) {
    let problems = found(&facts(peer));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].fix.as_ref().is_some_and(|fix| !fix.is_empty()));
    (problems[0].code, problems[0].text.clone())
}

const REMOTE: &str = "203.0.113.7:58423";

fn probed(answered: u32, lost: u32) -> Probed {
    Probed { answered, lost }
}

#[test]
fn each_cause_has_its_own_code_and_words() {
    let failed = || Attempt { failed: 3, ..attempt(REMOTE) };
    let refused = |by, why| Attempt {
        refusal: Some(Refused { by, why, text: "this edge: text".to_owned() }),
        ..failed()
    };
    let passes = probed(2, 0);
    for (attempt, code, words) in [
        (failed(), Code::LinkDown, "no answer from 203.0.113.7:58423"),
        (Attempt { leads_here: true, ..failed() }, Code::EndpointIsSelf, "leads to this edge"),
        (
            refused(Side::Us, Why::Other("aliyun-sz".parse().unwrap())),
            Code::EndpointIsOther,
            "the edge aliyun-sz answers",
        ),
        (refused(Side::Us, Why::Other("idc".parse().unwrap())), Code::EndpointIsSelf, "itself"),
        (refused(Side::Peer, Why::Tls(45)), Code::LinkDown, "it refuses this edge's certificate"),
        (
            refused(Side::Us, Why::Tls(44)),
            Code::LinkDown,
            "certificate of aws-hk, which is revoked",
        ),
        (refused(Side::Peer, Why::NotAPeer), Code::LinkDown, "does not have this edge among"),
        (
            Attempt { small: passes, large: probed(0, 2), marked: probed(0, 2), ..failed() },
            Code::LinkTooNarrow,
            "1228 bytes",
        ),
        (
            Attempt { small: passes, large: passes, marked: probed(0, 2), ..failed() },
            Code::LinkDown,
            "marked ECN-capable",
        ),
        (Attempt { answers: 1, ..failed() }, Code::LinkOneWay, "answered the first packet"),
        (
            Attempt { small: passes, rtt: Some(Duration::from_millis(4210)), ..failed() },
            Code::LinkDown,
            "takes 4.2 s",
        ),
    ] {
        let seen = format!("{attempt:?}");
        let (found, text) = only(down(vec![attempt]));
        assert!(found == code && text.contains(words), "{seen}: {found} {text}");
    }
}

#[test]
fn what_a_socket_of_its_own_finds_is_named() {
    let remote: SocketAddr = REMOTE.parse().unwrap();
    for (reach, code, words) in [
        (Reach::PortClosed, Code::LinkDown, "UDP port 58423 is closed"),
        (Reach::FirstOnly, Code::LinkOneWay, "first packet"),
        (Reach::Unreachable, Code::LinkDown, "no route"),
        (Reach::NotPermitted { marked_only: true }, Code::MarkDropped, "a rule of this host"),
        (Reach::NotPermitted { marked_only: false }, Code::LinkDown, "a firewall of this host"),
        (Reach::Answered, Code::LinkDown, "another UDP port"),
        (Reach::Nothing, Code::LinkDown, "no answer"),
    ] {
        let peer = down(vec![Attempt { failed: 2, ..attempt(REMOTE) }]);
        let (found, text) = only(PeerFacts { reached: vec![(remote, reach)], ..peer });
        assert!(found == code && text.contains(words), "{reach:?}: {found} {text}");
    }
}

#[test]
fn a_routing_rule_that_selects_the_edges_mark_is_named() {
    let remote: SocketAddr = REMOTE.parse().unwrap();
    let marked = [Marked {
        remote: remote.ip(),
        rule: Rule { priority: 90, ..Rule::default() },
        device: None,
        unmarked_device: Some("eth0".to_owned()),
    }];
    let peer = down(vec![Attempt { failed: 2, ..attempt(REMOTE) }]);
    let found = Check::problems(&checks(&facts(peer), &marked));
    assert!(found[0].code == Code::MarkDropped && found[0].text.contains("90: "), "{found:?}");
    let works = up(Duration::from_millis(30), Duration::ZERO, false);
    assert_eq!(Check::problems(&checks(&facts(works), &marked)), []);
}

#[test]
fn a_name_without_address_and_a_silent_resolver_are_told_apart() {
    let endpoint: Endpoint = "gw.example.com:58423".parse().unwrap();
    for (why, words) in [
        (NoAddress::Unknown("Name or service not known".to_owned()), "does not resolve: Name"),
        (NoAddress::Silent, "no DNS server answers"),
    ] {
        let unresolved = vec![(endpoint.clone(), why)];
        let peer = PeerFacts { endpoints: vec![endpoint.clone()], unresolved, ..down(Vec::new()) };
        let (code, text) = only(peer);
        assert!(code == Code::EndpointUnresolved && text.contains(words), "{code} {text}");
    }
}

#[test]
fn a_shared_public_address_is_a_nat_that_does_not_hairpin() {
    let remote = "198.51.100.1:58424";
    let peer = PeerFacts {
        endpoints: vec![remote.parse().unwrap()],
        ..down(vec![Attempt { failed: 3, ..attempt(remote) }])
    };
    let problem = &found(&facts(peer.clone()))[0];
    assert!(problem.text.contains("one NAT"), "{}", problem.text);
    assert!(problem.fix.as_ref().unwrap().contains("--endpoint PRIVATE:PORT"));
    // The NAT itself says that it has no such port.
    let closed = PeerFacts { reached: vec![(remote.parse().unwrap(), Reach::PortClosed)], ..peer };
    let problem = &found(&facts(closed))[0];
    assert!(problem.text.contains("one NAT"), "{}", problem.text);
}

#[test]
fn two_edges_without_endpoint_are_named_and_one_that_must_dial_is_too() {
    let peer = PeerFacts { endpoints: Vec::new(), ..down(Vec::new()) };
    let neither = LinkFacts { own_endpoints: Vec::new(), ..facts(peer.clone()) };
    assert_eq!(found(&neither)[0].code, Code::NoEndpoint);
    let (code, text) = only(peer);
    assert!(code == Code::LinkDown && text.contains("must dial this edge"), "{text}");
}

#[test]
fn a_peer_that_has_not_joined_or_has_just_been_added_is_no_problem() {
    let absent = PeerFacts { joined: false, ..down(Vec::new()) };
    let good = checks(&facts(absent), &[]);
    assert_eq!(
        good[0].result,
        Ok("0 of 0 are up; 1 more have not joined, or are revoked".to_owned())
    );
    let mut new = down(Vec::new());
    for (timed_out, problems) in [(false, 0), (true, 1)] {
        let lasts = Duration::from_secs(2);
        new.link = LinkState::Down { lasts, timed_out, dialling: Dialling::default() };
        assert_eq!(
            found(&facts(new.clone())).len(),
            problems,
            "a link that timed out is known to be down"
        );
    }
}

#[test]
fn a_link_that_is_not_acknowledged_is_down_and_a_slow_or_unmarked_one_is_a_warning() {
    let ms = Duration::from_millis;
    assert_eq!(found(&facts(up(ms(30), ms(3500), false))), []);
    assert_eq!(only(up(ms(30), ms(5500), false)).0, Code::LinkDown);
    assert_eq!(found(&facts(up(ms(800), ms(5500), false))), [], "the path is long");
    assert_eq!(only(up(ms(4200), ms(5500), false)).0, Code::LinkTooSlow);
    assert_eq!(only(up(ms(30), ms(0), true)).0, Code::LinkEcnDropped);
}

#[test]
fn a_link_that_carries_only_some_packets_is_named_though_it_is_up() {
    let ms = Duration::from_millis;
    for (quality, code, words) in [
        (PathQuality { is_too_narrow: true, loss: Some(0.4) }, Code::LinkTooNarrow, "1228 bytes"),
        (PathQuality { is_too_narrow: false, loss: Some(0.34) }, Code::LinkLossy, "about 30 %"),
    ] {
        let mut peer = up(ms(30), ms(500), false);
        assert!(peer.link.carries());
        if let LinkState::Up { quality: of_link, .. } = &mut peer.link {
            *of_link = quality;
        }
        assert!(!peer.link.carries());
        let (found, text) = only(peer);
        assert!(found == code && text.contains(words), "{found} {text}");
    }
}

#[test]
fn an_identity_in_use_is_told_at_the_peer_and_at_the_refused_copy() {
    let age = Duration::from_secs(3);
    let refused = Some("198.51.100.9:58423".parse().unwrap());
    let at_peer = PeerFacts {
        contested: Some(Contest { age, refused }),
        ..up(Duration::ZERO, Duration::ZERO, false)
    };
    let (code, text) = only(at_peer.clone());
    assert!(code == Code::IdentityInUse && text.contains("198.51.100.9"), "{text}");
    assert!(text.contains("203.0.113.7:58423 stays"), "{text}");
    let at_copy = PeerFacts { contested: Some(Contest { age, refused: None }), ..down(Vec::new()) };
    let (code, text) = only(at_copy);
    assert!(code == Code::IdentityInUse && text.contains("this edge's identity idc"), "{text}");
    let over = Some(Contest { age: Duration::from_secs(10), refused });
    assert_eq!(found(&facts(PeerFacts { contested: over, ..at_peer })), []);
}

#[test]
fn a_full_connection_table_is_named_with_a_larger_limit() {
    for (count, dropping, problems) in
        [(1024, false, 1), (1000, true, 1), (1000, false, 0), (10, true, 0)]
    {
        let connections = Some(Connections { count, max: 1024, dropping });
        let peer = up(Duration::ZERO, Duration::ZERO, false);
        let found = found(&LinkFacts { connections, ..facts(peer) });
        assert_eq!(found.len(), problems, "{count} {dropping}");
        for problem in found {
            assert_eq!(problem.fix.unwrap(), "sysctl -w net.netfilter.nf_conntrack_max=4096");
        }
    }
}

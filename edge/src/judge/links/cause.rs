//! Why a link is down. The most specific observation is named; without one, what was seen.

use std::{net::SocketAddr, time::Duration};

use cframe_mesh::{Attempt, Dialling, Refused, SendError, Side, Why};
use cframe_protocol::problem::Code;

use super::{LinkFacts, NoAddress, PeerFacts, Reach};
use crate::{host::routes::Marked, problem::Problem};

/// The smallest underlay packet in bytes that QUIC needs: 1,200 bytes of payload with UDP and IPv4 headers.
const NEEDED_V4: u16 = 1228;
const NEEDED_V6: u16 = 1248;
const RAISE_MTU: &str =
    "raise the MTU of the narrow hop, often another tunnel (tracepath shows it)";

pub(super) fn of(
    (facts, marked): (&LinkFacts, &[Marked]),
    peer: &PeerFacts,
    dialling: &Dialling,
    timed_out: bool,
) -> Problem {
    if peer.endpoints.is_empty() && facts.own_endpoints.is_empty() {
        return no_endpoint(facts, peer);
    }
    if let Some(problem) = unresolved(facts, peer, dialling) {
        return problem;
    }
    // The address about which most is known.
    let known = dialling.attempts.iter().filter_map(|attempt| at(facts, marked, peer, attempt));
    let (_, problem) = known.max_by_key(|(rank, _)| *rank).unwrap_or_else(|| {
        let text = waiting(peer, dialling, timed_out);
        (0, Problem::new(Code::LinkDown, peer.name.as_str(), text).fix(look_at(peer, None)))
    });
    problem
}

/// The path of a link that is up has become too narrow.
pub(super) fn narrow_meanwhile(peer: &PeerFacts, remote: Option<SocketAddr>) -> Problem {
    let name = &peer.name;
    let (at, needed) = match remote {
        Some(remote) => (format!(" at {remote}"), needed(remote)),
        None => (String::new(), NEEDED_V4),
    };
    let text = format!(
        "the path to {name}{at} has become too narrow: packets of {needed} bytes do not arrive there any more, and \
         small ones do"
    );
    Problem::new(Code::LinkTooNarrow, name.as_str(), text).fix(RAISE_MTU)
}

/// What an operator can look at when nothing more is known.
pub(super) fn look_at(peer: &PeerFacts, remote: Option<SocketAddr>) -> String {
    let name = &peer.name;
    match remote {
        Some(remote) => format!(
            "check on {name} that cframe-edge runs (cframe-edge status), and that every firewall on the way \
             lets UDP port {} in",
            remote.port()
        ),
        None => format!("check on {name} that cframe-edge runs (cframe-edge status)"),
    }
}

pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn no_endpoint(facts: &LinkFacts, peer: &PeerFacts) -> Problem {
    let (name, namespace) = (&peer.name, &facts.namespace);
    let text = format!(
        "neither this edge nor {name} has an endpoint, so neither can dial the other, and no packet passes between them"
    );
    Problem::new(Code::NoEndpoint, name.as_str(), text).fix(format!(
        "give one of them an endpoint (cfctl edge set {name} --namespace {namespace} --endpoint HOST:PORT), or say \
         that they need no link (cfctl edge set {name} --namespace {namespace} --no-link-to {})",
        facts.own
    ))
}

/// A name without address is the cause if no other address is left to dial.
fn unresolved(facts: &LinkFacts, peer: &PeerFacts, dialling: &Dialling) -> Option<Problem> {
    let all = peer.unresolved.len() == peer.endpoints.len();
    let tried = dialling.attempts.iter().any(|attempt| attempt.answers > 0);
    let (endpoint, why) = peer.unresolved.first().filter(|_| all && !tried)?;
    let (name, namespace) = (&peer.name, &facts.namespace);
    let (text, fix) = match why {
        NoAddress::Unknown(error) => (
            format!("the endpoint {endpoint} of {name} does not resolve: {error}"),
            format!(
                "correct the DNS record, or the endpoint: cfctl edge set {name} --namespace {namespace} --endpoint \
                 HOST:PORT"
            ),
        ),
        NoAddress::Silent => (
            format!("the endpoint {endpoint} of {name} cannot be resolved: no DNS server answers"),
            "check the DNS servers in /etc/resolv.conf".to_owned(),
        ),
    };
    Some(Problem::new(Code::EndpointUnresolved, name.as_str(), text).fix(fix))
}

/// What is known of one address, and how much that says.
fn at(
    facts: &LinkFacts,
    marked: &[Marked],
    peer: &PeerFacts,
    attempt: &Attempt,
) -> Option<(u8, Problem)> {
    let reach = peer.reached.iter().find(|(remote, _)| *remote == attempt.remote);
    let reach = reach.map_or(Reach::Nothing, |(_, reach)| *reach);
    let told = identity(facts, peer, attempt)
        .or_else(|| one_nat(facts, peer, attempt))
        .or_else(|| by_mark(marked, peer, attempt, reach))
        .or_else(|| local(facts, peer, attempt, reach))
        .or_else(|| path(peer, attempt, reach));
    if let Some(problem) = told {
        return Some((3, problem));
    }
    if attempt.failed == 0 && attempt.send_error.is_none() && reach == Reach::Nothing {
        return Some((1, silence(peer, attempt)));
    }
    Some((2, silence(peer, attempt)))
}

/// Somebody answers, and is refused or refuses.
fn identity(facts: &LinkFacts, peer: &PeerFacts, attempt: &Attempt) -> Option<Problem> {
    let (name, remote, namespace) = (&peer.name, attempt.remote, &facts.namespace);
    let set =
        format!("correct it: cfctl edge set {name} --namespace {namespace} --endpoint HOST:PORT");
    let here = || {
        let text = format!("the endpoint {remote} of {name} leads to this edge itself");
        Problem::new(Code::EndpointIsSelf, name.as_str(), text).fix(set.clone())
    };
    if attempt.leads_here {
        return Some(here());
    }
    let refused = attempt.refusal.as_ref()?;
    Some(match &refused.why {
        Why::Other(other) if other.as_str() == facts.own => here(),
        Why::Other(other) => {
            let text = format!("at {remote}, the endpoint of {name}, the edge {other} answers");
            Problem::new(Code::EndpointIsOther, name.as_str(), text).fix(set)
        }
        Why::InUse | Why::NotAPeer | Why::Tls(_) | Why::Protocol => {
            let (text, fix) = refusal(peer, attempt, refused);
            Problem::new(Code::LinkDown, name.as_str(), text).fix(fix)
        }
    })
}

fn refusal(peer: &PeerFacts, attempt: &Attempt, refused: &Refused) -> (String, String) {
    let (name, remote) = (&peer.name, attempt.remote);
    let (who, whose, where_) = match refused.by {
        Side::Us => ("this edge refuses", format!("the certificate of {name}"), name.to_string()),
        Side::Peer => ("it refuses", "this edge's certificate".to_owned(), "this host".to_owned()),
    };
    let (what, fix) = match refused.why {
        Why::Tls(44) => (
            "is revoked",
            format!("on {where_}: join again with a token of cfctl token create --rejoin"),
        ),
        Why::Tls(45) => (
            "has expired",
            format!(
                "on {where_}: set the clock if it is wrong, then: cframe-edge status (says why it was not renewed)"
            ),
        ),
        Why::Tls(48) => (
            "comes from an unknown CA",
            "compare the roots that both have: cfctl ca list; join the one that is behind again"
                .to_owned(),
        ),
        Why::NotAPeer => {
            return (
                format!("{name} at {remote} does not have this edge among its peers (yet)"),
                format!("check on {name} that it has the newest state: cframe-edge status"),
            );
        }
        Why::Tls(_) | Why::InUse | Why::Protocol | Why::Other(_) => {
            return (
                format!(
                    "{name} answers at {remote}, and the handshake is refused: {}",
                    refused.text
                ),
                look_at(peer, Some(remote)),
            );
        }
    };
    (format!("{name} answers at {remote}, and {who} {whose}, which {what}"), fix)
}

/// A rule of this host treats the edge's packets differently because of their mark. That was tried with packets with
/// and without it; the kernel's routing rules say which one it is, if it is one of those.
fn by_mark(
    marked: &[Marked],
    peer: &PeerFacts,
    attempt: &Attempt,
    reach: Reach,
) -> Option<Problem> {
    let remote = attempt.remote;
    let was_tried = reach == (Reach::NotPermitted { marked_only: true });
    let rule = marked.iter().find(|marked| marked.remote == remote.ip());
    let fails =
        was_tried || (attempt.failed > 0 && attempt.answers == 0 && !attempt.small.passes());
    let (text, find) = match rule.filter(|_| fails) {
        Some(Marked { rule, device, unmarked_device, .. }) => {
            let way = |device: &Option<String>| match device {
                Some(device) => format!("by {device}"),
                None => "nowhere".to_owned(),
            };
            let (way, other) = (way(device), way(unmarked_device));
            (
                format!(
                    "the rule \"{}\" sends what the edge sends to {remote} {way}, and what others send {other}",
                    rule.text()
                ),
                "ip rule show",
            )
        }
        None if was_tried => (
            format!(
                "a rule of this host drops what the edge sends to {remote}, and not what others send there"
            ),
            "nft list ruleset",
        ),
        None => return None,
    };
    let fix = format!("change the rule ({find} shows it), or the setting mark in edge.toml");
    Some(Problem::new(Code::MarkDropped, peer.name.as_str(), text).fix(fix))
}

/// This host keeps packets from leaving or arriving.
fn local(facts: &LinkFacts, peer: &PeerFacts, attempt: &Attempt, reach: Reach) -> Option<Problem> {
    let (name, remote, listen) = (peer.name.as_str(), attempt.remote, facts.listen);
    if reach == (Reach::NotPermitted { marked_only: false }) {
        let text = format!("a firewall of this host drops UDP packets to {remote}");
        let fix = format!(
            "find the rule (nft list ruleset) and let UDP packets from port {listen} out before it"
        );
        return Some(Problem::new(Code::LinkDown, name, text).fix(fix));
    }
    if attempt.send_error == Some(SendError::TooLarge) {
        let text = format!(
            "a device of this host carries no packets of {} bytes to {remote}, which QUIC needs (RFC 9000 §14)",
            needed(remote)
        );
        let fix = format!("raise the MTU of the device to {} (ip route get shows it)", remote.ip());
        return Some(Problem::new(Code::LinkTooNarrow, name, text).fix(fix));
    }
    if attempt.send_error == Some(SendError::Unreachable) || reach == Reach::Unreachable {
        let text = format!("{remote} cannot be reached: there is no route to it");
        let fix =
            format!("add a route to {} (ip route get shows what the kernel says)", remote.ip());
        return Some(Problem::new(Code::LinkDown, name, text).fix(fix));
    }
    None
}

/// The path carries some packets and others not.
fn path(peer: &PeerFacts, attempt: &Attempt, reach: Reach) -> Option<Problem> {
    let (name, remote) = (peer.name.as_str(), attempt.remote);
    if attempt.is_too_narrow() {
        let text = format!(
            "the path to {remote} is too narrow: it carries small packets and none of {} bytes, which QUIC needs \
             (RFC 9000 §14)",
            needed(remote)
        );
        return Some(Problem::new(Code::LinkTooNarrow, name, text).fix(RAISE_MTU));
    }
    if attempt.drops_marks() {
        let text = format!(
            "the path to {remote} drops packets that are marked ECN-capable; the next dial goes without marks"
        );
        return Some(Problem::new(Code::LinkDown, name, text).fix(look_at(peer, Some(remote))));
    }
    if reach == Reach::PortClosed {
        let text = format!(
            "the host at {remote} answers that UDP port {} is closed: cframe-edge does not run there or uses another \
             port, or a firewall rejects",
            remote.port()
        );
        return Some(Problem::new(Code::LinkDown, name, text).fix(look_at(peer, Some(remote))));
    }
    let partly = attempt.failed > 0 && attempt.answers > 0 && attempt.refusal.is_none();
    if reach == Reach::FirstOnly || (partly && !attempt.small.passes()) {
        let text = format!(
            "{name} at {remote} answered the first packet, and none of those that followed: a firewall on the way lets \
             only the first packet of a flow pass"
        );
        let fix = "let UDP packets of established flows pass on both hosts and on the way";
        return Some(Problem::new(Code::LinkOneWay, name, text).fix(fix));
    }
    if let Some(rtt) = attempt.rtt.filter(|rtt| *rtt >= Duration::from_secs(1)) {
        let text = format!(
            "the round trip to {remote} takes {}; the handshake waits for it",
            seconds(rtt)
        );
        return Some(Problem::new(Code::LinkDown, name, text).fix(look_at(peer, Some(remote))));
    }
    if reach == Reach::Answered && !attempt.small.passes() {
        let text = format!(
            "{name} at {remote} answers another UDP port of this host and not the edge's: a NAT or firewall on the way \
             drops this one flow"
        );
        return Some(Problem::new(Code::LinkDown, name, text).fix(look_at(peer, Some(remote))));
    }
    None
}

/// The peer's address is this edge's own public one, and nothing of the peer answers there: not even the NAT's own
/// host, which may say that it has no such port.
fn one_nat(facts: &LinkFacts, peer: &PeerFacts, attempt: &Attempt) -> Option<Problem> {
    let (name, remote) = (&peer.name, attempt.remote);
    let is_own = facts.own_addresses.contains(&remote.ip()) && !peer.endpoints.is_empty();
    if !is_own || attempt.failed == 0 || attempt.answers > 0 || attempt.small.passes() {
        return None;
    }
    let text = format!(
        "no answer from {remote}, which is this edge's own public address too: both are behind one NAT, which does \
         not send packets for its own address back (no hairpinning)"
    );
    Some(Problem::new(Code::LinkDown, name.as_str(), text).fix(format!(
        "add the private address as an endpoint: cfctl edge set {name} --namespace {} --endpoint {remote} \
         --endpoint PRIVATE:PORT",
        facts.namespace
    )))
}

/// Nothing came back.
fn silence(peer: &PeerFacts, attempt: &Attempt) -> Problem {
    let (name, remote) = (&peer.name, attempt.remote);
    let text = match attempt.small.passes() {
        true => format!("{remote} answers probes, and no handshake succeeds"),
        false => format!("no answer from {remote}"),
    };
    Problem::new(Code::LinkDown, name.as_str(), text).fix(look_at(peer, Some(remote)))
}

/// Nothing can be dialled: the peer must dial.
fn waiting(peer: &PeerFacts, dialling: &Dialling, timed_out: bool) -> String {
    let name = &peer.name;
    if dialling.incoming_unfinished > 0 {
        return format!("{name} dials this edge, and its handshakes stop after their first packet");
    }
    match timed_out {
        true => {
            format!("nothing more came from {name}, which has no endpoint and must dial this edge")
        }
        false => format!("{name} has no endpoint, so it must dial this edge, and does not"),
    }
}

fn needed(remote: SocketAddr) -> u16 {
    if remote.is_ipv4() { NEEDED_V4 } else { NEEDED_V6 }
}

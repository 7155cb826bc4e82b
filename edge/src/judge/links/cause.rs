//! Why a link is down. The most specific observation is named; without one, what was seen.

use std::{net::SocketAddr, time::Duration};

use cframe_mesh::{Attempt, Dialling, Refused, SendError, Side, Why};
use cframe_protocol::problem::Code;

use super::{Filtered, LinkFacts, NoAddress, PeerFacts, Reach};
use crate::problem::Problem;

/// The smallest underlay packet in bytes that QUIC needs: 1,200 bytes of payload with UDP and IPv4 headers.
const NEEDED_V4: u16 = 1228;
const NEEDED_V6: u16 = 1248;

pub(super) fn of(
    facts: &LinkFacts,
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
    let known = dialling.attempts.iter().filter_map(|attempt| at(facts, peer, attempt));
    let (_, problem) = known.max_by_key(|(rank, _)| *rank).unwrap_or_else(|| {
        let text = waiting(peer, dialling, timed_out);
        (0, Problem::new(Code::LinkDown, peer.name.as_str(), text).fix(look_at(peer, None)))
    });
    problem
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
fn at(facts: &LinkFacts, peer: &PeerFacts, attempt: &Attempt) -> Option<(u8, Problem)> {
    let reach = peer.reached.iter().find(|(remote, _)| *remote == attempt.remote);
    let reach = reach.map_or(Reach::Nothing, |(_, reach)| *reach);
    let told = identity(facts, peer, attempt)
        .or_else(|| local(facts, peer, attempt, reach))
        .or_else(|| path(peer, attempt, reach));
    if let Some(problem) = told {
        return Some((3, problem));
    }
    if attempt.failed == 0 && attempt.send_error.is_none() && reach == Reach::Nothing {
        return Some((1, silence(facts, peer, attempt)));
    }
    Some((2, silence(facts, peer, attempt)))
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

/// This host keeps packets from leaving or arriving.
fn local(facts: &LinkFacts, peer: &PeerFacts, attempt: &Attempt, reach: Reach) -> Option<Problem> {
    let (name, remote, listen) = (peer.name.as_str(), attempt.remote, facts.listen);
    if let Reach::NotPermitted { marked_only } = reach {
        return Some(match marked_only {
            true => Problem::new(
                Code::MarkDropped,
                name,
                format!("a rule of this host drops what the edge sends to {remote}, and not what others send there"),
            )
            .fix("find the rule (nft list ruleset) and change it, or the setting mark in edge.toml"),
            false => Problem::new(
                Code::LinkDown,
                name,
                format!("a firewall of this host drops UDP packets to {remote}"),
            )
            .fix(format!("find the rule (nft list ruleset) and let UDP packets from port {listen} out before it")),
        });
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
    let filtered = facts.filtered.iter().find(|filtered| filtered.remote == remote.ip())?;
    let Filtered { device, other, .. } = filtered;
    let text = format!(
        "packets of {name} arrive by {device}, and the reverse path filter there drops them, because the route to \
         {remote} leads to {other}"
    );
    let fix = format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2");
    Some(Problem::new(Code::ReplyFiltered, name, text).fix(fix))
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
        let fix = "raise the MTU of the narrow hop, often another tunnel (tracepath shows it)";
        return Some(Problem::new(Code::LinkTooNarrow, name, text).fix(fix));
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

/// Nothing came back.
fn silence(facts: &LinkFacts, peer: &PeerFacts, attempt: &Attempt) -> Problem {
    let (name, remote) = (&peer.name, attempt.remote);
    if facts.own_addresses.contains(&remote.ip()) && !peer.endpoints.is_empty() {
        let text = format!(
            "no answer from {remote}, which is this edge's own public address too: both are behind one NAT, which does \
             not send packets for its own address back (no hairpinning)"
        );
        return Problem::new(Code::LinkDown, name.as_str(), text).fix(format!(
            "add the private address as an endpoint: cfctl edge set {name} --namespace {} --endpoint {remote} \
             --endpoint PRIVATE:PORT",
            facts.namespace
        ));
    }
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

//! Links to peers: why each one that should be up is down, as far as that was measured.

mod cause;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use cframe_mesh::{Dialling, PathQuality};
use cframe_pki::identity::Label;
use cframe_protocol::{problem::Code, v1::Endpoint};

use crate::{
    host::routes::Marked,
    problem::{Check, Problem},
};

/// A peer without a link is no problem for so long after it was added or has restarted.
const GRACE: Duration = Duration::from_secs(5);
/// A peer must acknowledge something within this time, and a few round trips.
const MAX_SILENCE: Duration = Duration::from_millis(4800);
/// The host that is refused tries again after five seconds at most.
const CONTEST_MEMORY: Duration = Duration::from_millis(7500);
/// The round-trip time from which a link is called slow.
const SLOW: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
pub struct LinkFacts {
    pub namespace: String,
    pub own: String,
    /// This edge's endpoints, and the addresses that they have.
    pub own_endpoints: Vec<Endpoint>,
    pub own_addresses: Vec<IpAddr>,
    /// The UDP port of all links.
    pub listen: u16,
    /// All peers, in the order of their names.
    pub peers: Vec<PeerFacts>,
    /// Connections that this host tracks; `None` if it does not.
    pub connections: Option<Connections>,
}

// fields: what is known of one peer.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    pub name: Label,
    pub joined: bool,
    pub endpoints: Vec<Endpoint>,
    /// Endpoints whose name has no address now.
    pub unresolved: Vec<(Endpoint, NoAddress)>,
    pub link: LinkState,
    /// Two processes use the peer's identity, or this edge's own.
    pub contested: Option<Contest>,
    /// What a socket of its own found at addresses where dials fail.
    pub reached: Vec<(SocketAddr, Reach)>,
}

#[derive(Clone, Debug)]
pub enum LinkState {
    Up {
        rtt: Duration,
        remote: Option<SocketAddr>,
        /// Since when the peer has acknowledged nothing.
        silence: Duration,
        /// Whether ECN marks are off because the path drops packets that have them.
        unmarked: bool,
        /// What checks of the path have found.
        quality: PathQuality,
    },
    Down {
        lasts: Duration,
        /// Whether the last link ended because the peer was silent.
        timed_out: bool,
        dialling: Dialling,
    },
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAddress {
    /// The resolver says so.
    Unknown(String),
    /// The resolver does not answer.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contest {
    /// How long ago it was seen.
    pub age: Duration,
    /// The address that this edge refused; `None` if the peer refused this edge.
    pub refused: Option<SocketAddr>,
}

/// What a datagram from a new port of this host led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Nothing,
    Answered,
    /// The first datagram was answered, and the next ones were not.
    FirstOnly,
    /// ICMP: no process has this port.
    PortClosed,
    /// ICMP, or this host: no way to it.
    Unreachable,
    /// A rule of this host drops what the edge sends. `marked_only`: not what other programs send there.
    NotPermitted {
        marked_only: bool,
    },
}

/// The host's connection table (nf_conntrack).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub count: u64,
    pub max: u64,
    /// Whether packets were dropped for it in the last seconds.
    pub dropping: bool,
}

impl LinkState {
    /// Whether packets pass, of every size.
    pub fn carries(&self) -> bool {
        match self {
            Self::Up { rtt, silence, quality, .. } => {
                !is_silent(*rtt, *silence) && *quality == PathQuality::default()
            }
            Self::Down { .. } => false,
        }
    }
}

fn is_silent(rtt: Duration, silence: Duration) -> bool {
    silence > MAX_SILENCE + 4 * rtt
}

/// `marked`: rules of the host that send the edge's own packets elsewhere.
pub fn checks(facts: &LinkFacts, marked: &[Marked]) -> Vec<Check> {
    if facts.own.is_empty() {
        return Vec::new();
    }
    let mut problems: Vec<Problem> = Vec::new();
    problems.extend(facts.connections.and_then(connection_table));
    for peer in facts.peers.iter().filter(|peer| peer.joined) {
        problems.extend(judge(facts, peer, marked));
    }
    let expected = facts.peers.iter().filter(|peer| peer.joined).count();
    let up = facts.peers.iter().filter(|peer| peer.link.carries()).count();
    let absent = facts.peers.len() - expected;
    let absent = match absent {
        0 => String::new(),
        absent => format!("; {absent} more have not joined, or are revoked"),
    };
    vec![Check::of("links", problems, format!("{up} of {expected} are up{absent}"))]
}

fn judge(facts: &LinkFacts, peer: &PeerFacts, marked: &[Marked]) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(contest(facts, peer));
    match &peer.link {
        LinkState::Up { rtt, silence, unmarked, remote, quality } => {
            if is_silent(*rtt, *silence) {
                problems.push(silent(peer, *remote));
            } else if quality.is_too_narrow {
                problems.push(cause::narrow_meanwhile(peer, *remote));
            } else if let Some(loss) = quality.loss {
                problems.push(lossy(peer, *remote, loss));
            } else if *rtt >= SLOW {
                problems.push(slow(peer, *rtt));
            }
            problems.extend(unmarked.then(|| marks_dropped(peer)));
        }
        LinkState::Down { lasts, timed_out, dialling } => {
            let known = *timed_out || *lasts >= GRACE;
            if known && problems.is_empty() {
                problems.push(cause::of((facts, marked), peer, dialling, *timed_out));
            }
        }
    }
    problems
}

fn contest(facts: &LinkFacts, peer: &PeerFacts) -> Option<Problem> {
    let contest = peer.contested.filter(|contest| contest.age <= CONTEST_MEMORY)?;
    let LinkFacts { namespace, own, .. } = facts;
    let name = &peer.name;
    let current = match &peer.link {
        LinkState::Up { remote: Some(remote), .. } => format!(" The link to {remote} stays."),
        LinkState::Up { .. } | LinkState::Down { .. } => String::new(),
    };
    let text = match contest.refused {
        Some(refused) => {
            format!(
                "two hosts use the identity of {name}; the one at {refused} is refused.{current}"
            )
        }
        None => format!(
            "another host uses this edge's identity {own}, and {name} has a link with that one, so it refuses this one"
        ),
    };
    let joined_again = contest.refused.map_or(own.as_str(), |_| name.as_str());
    Some(Problem::new(Code::IdentityInUse, name.as_str(), text).fix(format!(
        "stop the copy (systemctl disable --now cframe-edge there), or give it an edge of its own; if the copy \
         is the right one, stop the other. A key that somebody else may have is replaced with: \
         cfctl token create --namespace {namespace} --edge {joined_again} --rejoin"
    )))
}

fn silent(peer: &PeerFacts, remote: Option<SocketAddr>) -> Problem {
    let at = remote.map(|remote| format!(" at {remote}")).unwrap_or_default();
    let text = format!("{}{at} acknowledges nothing any more", peer.name);
    Problem::new(Code::LinkDown, peer.name.as_str(), text).fix(cause::look_at(peer, remote))
}

fn lossy(peer: &PeerFacts, remote: Option<SocketAddr>, loss: f64) -> Problem {
    // In steps, so that a loss that stays is one text.
    let percent = 10.0 * (10.0 * loss).round();
    let text = format!("about {percent:.0} % of the packets to {} or back are lost", peer.name);
    let host = remote.map_or_else(|| peer.name.to_string(), |remote| remote.ip().to_string());
    Problem::new(Code::LinkLossy, peer.name.as_str(), text)
        .fix(format!("look for a full or faulty hop on the path (mtr {host} shows it)"))
}

fn slow(peer: &PeerFacts, rtt: Duration) -> Problem {
    let text = format!("the round trip to {} takes {}", peer.name, cause::seconds(rtt));
    Problem::new(Code::LinkTooSlow, peer.name.as_str(), text)
        .fix("look for a full queue or a detour on the path (mtr shows the hop)")
}

fn marks_dropped(peer: &PeerFacts) -> Problem {
    let text = format!(
        "the path to {} drops packets that are marked ECN-capable, so the link is used without marks",
        peer.name
    );
    Problem::new(Code::LinkEcnDropped, peer.name.as_str(), text).fix(
        "let a firewall on the path pass packets whatever their ECN field (RFC 3168) is; the edge tries \
         again every minute",
    )
}

fn connection_table(connections: Connections) -> Option<Problem> {
    let Connections { count, max, dropping } = connections;
    // A table below its limit drops nothing, whatever it dropped a moment ago.
    let full = max > 0 && (count >= max || (dropping && count + max / 20 >= max));
    full.then(|| {
        let text = format!(
            "this host tracks as many connections as it may ({max}, nf_conntrack_max); packets of new ones are dropped"
        );
        let larger = max.saturating_mul(4);
        Problem::new(Code::ConnectionTableFull, "", text)
            .fix(format!("sysctl -w net.netfilter.nf_conntrack_max={larger}"))
    })
}

#[cfg(test)]
mod tests;

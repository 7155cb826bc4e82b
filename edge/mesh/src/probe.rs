//! Path probes: small and large datagrams that every edge answers with one of equal length and ECN field.
//!
//! They show why no handshake succeeds: whether anything gets through, whether datagrams as large as a
//! QUIC Initial do, and whether ECN marks matter. An answer is never larger than its request, and
//! contains the request's token, so that nobody else can make one up.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};

use crate::transport::MIN_MTU;

/// Bytes of a small probe: it fits every path.
pub const SMALL: usize = 48;
/// Bytes of a large probe: as many as a datagram with a QUIC Initial (RFC 9000 §14.1).
pub const LARGE: usize = MIN_MTU as usize;
/// `[kind u8][MAGIC][token 16 bytes][zeros]`. QUIC's packets have the magic number here only if a
/// connection id of ours contains it: once in 2⁵⁶.
const MAGIC: &[u8; 7] = b"cframe?";
const REQUEST: u8 = 0x20;
const ANSWER: u8 = 0x21;
const TOKEN: usize = 16;
/// An answer that arrives later is not recognised any more.
const MAX_AGE: Duration = Duration::from_secs(20);
/// Probes that wait for an answer.
const MAX_PENDING: usize = 4096;
/// An answer that has not arrived after this time, or after three round trips, counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(1500);

/// Matches an answer with its request.
pub(crate) type Token = [u8; TOKEN];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// 48 bytes.
    Small,
    /// 1,200 bytes.
    Large,
    /// 1,200 bytes, marked as ECN-capable.
    Marked,
}

/// A received probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Received {
    Request(Token),
    Answer(Token),
}

/// A probe under way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) peer: u32,
    pub(crate) remote: SocketAddr,
    pub(crate) kind: Kind,
    pub(crate) sent: Instant,
    /// Whether it was counted as lost.
    lost: bool,
}

#[derive(Debug, Default)]
pub(crate) struct PendingProbes(BTreeMap<Token, Pending>);

/// A request with a token that nobody else can know.
#[must_use]
pub fn request(token: [u8; TOKEN], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(SMALL)];
    bytes[0] = REQUEST;
    bytes[1..8].copy_from_slice(MAGIC);
    bytes[8..8 + TOKEN].copy_from_slice(&token);
    bytes
}

/// Whether this is the answer to the request with the token.
#[must_use]
pub fn is_answer(datagram: &[u8], token: [u8; TOKEN]) -> bool {
    parse(datagram) == Some(Received::Answer(token))
}

/// The probe in a datagram. Cheap for all others.
#[inline]
pub(crate) fn parse(datagram: &[u8]) -> Option<Received> {
    let is_probe = matches!(datagram.len(), SMALL | LARGE)
        && matches!(datagram[0], REQUEST | ANSWER)
        && datagram[1..8] == *MAGIC;
    if !is_probe {
        return None;
    }
    let mut token = [0; TOKEN];
    token.copy_from_slice(&datagram[8..8 + TOKEN]);
    Some(if datagram[0] == REQUEST { Received::Request(token) } else { Received::Answer(token) })
}

/// The answer to a request.
pub(crate) fn answer(request: &[u8]) -> Vec<u8> {
    let mut bytes = request.to_vec();
    bytes[0] = ANSWER;
    bytes
}

impl Kind {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Small => SMALL,
            Self::Large | Self::Marked => LARGE,
        }
    }
}

impl PendingProbes {
    /// The bytes of a new probe; `None` if too many are under way.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        (peer, remote): (u32, SocketAddr),
        kind: Kind,
        rng: &mut StdRng,
    ) -> Option<Vec<u8>> {
        if self.0.len() >= MAX_PENDING {
            self.0.retain(|_, pending| now.saturating_duration_since(pending.sent) < MAX_AGE);
        }
        if self.0.len() >= MAX_PENDING {
            return None;
        }
        let token: Token = rng.random();
        self.0.insert(token, Pending { peer, remote, kind, sent: now, lost: false });
        Some(request(token, kind.len()))
    }

    pub(crate) fn finish(&mut self, token: &Token) -> Option<Pending> {
        self.0.remove(token)
    }

    /// Forgets probes that are too old, and returns those of `peer` that count as lost from now on.
    pub(crate) fn newly_lost(
        &mut self,
        now: Instant,
        peer: u32,
        rtt: Option<Duration>,
    ) -> Vec<(SocketAddr, Kind)> {
        let limit = LOST_AFTER.max(3 * rtt.unwrap_or_default());
        let mut lost = Vec::new();
        self.0.retain(|_, pending| {
            let age = now.saturating_duration_since(pending.sent);
            if pending.peer == peer && age >= limit && !pending.lost {
                pending.lost = true;
                lost.push((pending.remote, pending.kind));
            }
            age < MAX_AGE
        });
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_these_bytes_and_its_answer_has_the_same_length_and_token() {
        for len in [SMALL, LARGE] {
            let bytes = request([7; TOKEN], len);
            assert_eq!((bytes.len(), &bytes[..8]), (len, &b"\x20cframe?"[..]));
            assert_eq!(parse(&bytes), Some(Received::Request([7; TOKEN])));
            let reply = answer(&bytes);
            assert_eq!(reply.len(), len);
            assert!(is_answer(&reply, [7; TOKEN]) && !is_answer(&reply, [8; TOKEN]));
            assert!(!is_answer(&bytes, [7; TOKEN]));
        }
    }

    #[test]
    fn other_datagrams_are_no_probes() {
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0x20; SMALL]), None);
        assert_eq!(parse(&request([7; TOKEN], SMALL + 1)), None);
        let mut quic = request([7; TOKEN], LARGE);
        quic[0] = 0x40;
        assert_eq!(parse(&quic), None);
    }
}

//! A peer as this edge knows it: where it may be dialled, which link is in use, and when to dial.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use cframe_pki::identity::Label;
use rand::{RngExt, rngs::StdRng};

use crate::queue::Queue;

/// Between two addresses of one peer, so that a dead one doesn't hold up a good one (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Back-off after all addresses failed once; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(600);
/// A moved dialler's link has this long to be heard over its new path.
const MIGRATION_PATIENCE: Duration = Duration::from_millis(400);
/// A renewal that is due this soon is not put off by a move.
const RENEWAL_NEAR: Duration = Duration::from_secs(60);
/// A path that comes back carries traffic again within this and a handshake.
const BACKOFF_MAX: Duration = Duration::from_secs(4);
/// Rounds (some ten minutes) after which a peer is taken to be gone for long.
const LONG_GONE: u32 = 150;
const BACKOFF_LONG_GONE: Duration = Duration::from_secs(15);
/// Rounds in which a link that still stands is tried to be made anew.
const RENEW_ROUNDS: u32 = 5;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: Label,
    /// Whether the desired state has it. Prefixes may name a peer before it is one.
    pub(crate) member: bool,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where the peer's packets last came from: the way back to one without an endpoint.
    pub(crate) last_remote: Option<SocketAddr>,
    /// The link in use.
    pub(crate) current: Option<usize>,
    /// The accepted link that last began to wait for the peer's hello.
    pub(crate) greeting: Option<usize>,
    /// How often it was dialled; part of the hello. A later dial outranks an earlier one.
    pub(crate) epoch: u64,
    pub(crate) queue: Queue,
    pub(crate) next_fragment: u32,
    /// The peer's entry in the timers.
    pub(crate) armed: Option<Instant>,
    next_dial: Option<Instant>,
    failures: u32,
    cursor: usize,
    renew: Option<Renew>,
}

/// Why a peer is dialled although its link stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Renew {
    /// Its end is in sight, or this side moved.
    Always,
    /// This side moved, and its link was told to follow.
    Moved,
    /// This side moved a round trip ago; the link had received so many datagrams by then, and one
    /// more shows that it followed.
    UnlessHeard(u64),
}

impl Peer {
    pub(crate) fn new(name: Label) -> Self {
        Self {
            name,
            member: false,
            addresses: Vec::new(),
            last_remote: None,
            current: None,
            greeting: None,
            epoch: 0,
            queue: Queue::default(),
            next_fragment: 0,
            armed: None,
            next_dial: None,
            failures: 0,
            cursor: 0,
            renew: None,
        }
    }

    pub(crate) fn next_dial(&self) -> Option<Instant> {
        self.next_dial
    }

    /// Dials at `at`, from the first address on; an earlier appointment stands.
    pub(crate) fn dial_at(&mut self, at: Instant) {
        self.failures = 0;
        self.cursor = 0;
        self.next_dial = Some(self.next_dial.map_or(at, |next| next.min(at)));
    }

    /// Dials at `at`, and then as slowly as ever more failures have it.
    pub(crate) fn dial_after_failure(&mut self, now: Instant) {
        self.failures += 1;
        self.next_dial = Some(now + backoff(self.failures));
    }

    /// Dials at `at` although a link stands.
    pub(crate) fn renew_at(&mut self, at: Instant, why: Renew) {
        let near = self.next_dial.is_some_and(|next| next <= at + RENEWAL_NEAR);
        if !(near && self.renew == Some(Renew::Always)) {
            self.renew = Some(why);
        }
        self.dial_at(at);
    }

    /// A link came up, or none is wanted any more.
    pub(crate) fn stop_dialling(&mut self) {
        self.next_dial = None;
        self.renew = None;
        self.cursor = 0;
    }

    /// The address to dial now, if any; makes the next appointment. `heard` is the number of
    /// datagrams that the current link has received.
    pub(crate) fn dial(
        &mut self,
        now: Instant,
        heard: Option<u64>,
        rng: &mut StdRng,
    ) -> Option<SocketAddr> {
        if self.next_dial.is_none_or(|at| at > now) {
            return None;
        }
        if let (Some(Renew::Moved), Some(heard)) = (self.renew, heard) {
            self.renew = Some(Renew::UnlessHeard(heard));
            self.next_dial = Some(now + MIGRATION_PATIENCE);
            return None;
        }
        let candidates: Vec<_> = self.candidates().collect();
        if !self.member || candidates.is_empty() || !self.wants_link(heard) {
            self.stop_dialling();
            return None;
        }
        let address = candidates[self.cursor % candidates.len()];
        self.cursor += 1;
        self.epoch += 1;
        let wait = if self.cursor.is_multiple_of(candidates.len()) {
            self.failures += 1;
            backoff(self.failures).mul_f64(rng.random_range(0.75..1.25))
        } else {
            STAGGER
        };
        self.next_dial = Some(now + wait);
        Some(address)
    }

    fn wants_link(&self, heard: Option<u64>) -> bool {
        match (self.current, self.renew) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(Renew::UnlessHeard(count))) => heard.is_none_or(|heard| heard <= count),
            (Some(_), Some(Renew::Always | Renew::Moved)) => self.failures < RENEW_ROUNDS,
        }
    }

    /// Whether the peer may be behind this address.
    pub(crate) fn is_at(&self, address: IpAddr) -> bool {
        self.candidates().any(|candidate| candidate.ip() == address)
    }

    fn candidates(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let observed = self.last_remote.filter(|remote| !self.addresses.contains(remote));
        self.addresses.iter().copied().chain(observed)
    }
}

fn backoff(failures: u32) -> Duration {
    let max = if failures > LONG_GONE { BACKOFF_LONG_GONE } else { BACKOFF_MAX };
    BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn peer(addresses: &[&str]) -> Peer {
        let mut peer = Peer::new("aws-hk".parse().unwrap());
        peer.member = true;
        peer.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        peer
    }

    #[test]
    fn addresses_are_tried_in_turn_and_then_ever_more_slowly_up_to_a_limit() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut peer = peer(&["203.0.113.7:1", "[2001:db8::7]:1"]);
        let mut now = Instant::now();
        peer.dial_at(now);
        let mut dialled = Vec::new();
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            dialled.push(peer.dial(now, None, &mut rng).unwrap().is_ipv4());
            let next = peer.next_dial().unwrap();
            longest = longest.max(next - now);
            now = next;
        }
        assert!(dialled.chunks(2).all(|pair| pair == [true, false]));
        assert!(longest <= BACKOFF_MAX.mul_f64(1.25) && longest > BACKOFF_MAX.mul_f64(0.7));
        assert_eq!(peer.epoch, 40);
    }

    #[test]
    fn nobody_dials_without_an_address_without_membership_or_with_a_link() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        for spoil in [
            (|p: &mut Peer| p.addresses.clear()) as fn(&mut Peer),
            |p| p.member = false,
            |p| p.current = Some(0),
        ] {
            let mut peer = peer(&["203.0.113.7:1"]);
            spoil(&mut peer);
            peer.dial_at(now);
            assert_eq!(peer.dial(now, Some(3), &mut rng), None);
            assert_eq!(peer.next_dial(), None);
        }
    }

    #[test]
    fn a_moved_dialler_dials_anew_only_when_its_link_stays_silent_on_the_new_path() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        for (heard, dials) in [(7, true), (8, false)] {
            let mut peer = peer(&["203.0.113.7:1"]);
            peer.current = Some(0);
            peer.renew_at(now, Renew::Moved);
            assert_eq!(peer.dial(now, Some(7), &mut rng), None, "first it listens");
            let later = peer.next_dial().unwrap();
            assert_eq!(peer.dial(later, Some(heard), &mut rng).is_some(), dials);
        }
    }

    #[test]
    fn a_move_does_not_put_off_a_renewal_that_is_near() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        let mut peer = peer(&["203.0.113.7:1"]);
        peer.current = Some(0);
        peer.renew_at(now + Duration::from_secs(10), Renew::Always);
        peer.renew_at(now, Renew::Moved);
        assert!(peer.dial(now, Some(7), &mut rng).is_some());
    }

    #[test]
    fn a_peer_without_endpoint_is_dialled_where_it_was_last_seen() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        let mut peer = peer(&[]);
        peer.last_remote = Some("198.51.100.1:4000".parse().unwrap());
        peer.dial_at(now);
        assert_eq!(peer.dial(now, None, &mut rng), peer.last_remote);
    }
}

//! A peer as this edge knows it: its addresses, the link in use, and the packets that wait for it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use cframe_pki::identity::Label;
use rand::rngs::StdRng;

use crate::queue::Queue;

mod contender;
mod dialler;
mod dialling;

pub use contender::Contested;
pub use dialling::{Attempt, Dialling, Probed, Refused, SendError, Side, Why};

pub(crate) use contender::Contender;
pub(crate) use dialler::Renewal;

use dialler::Dialler;

// fields: what is known of one peer, by independent events.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: Label,
    /// Whether it is in the desired state. A prefix may name its owner before that is a member.
    pub(crate) member: bool,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where the peer's packets last came from: the only address of a peer without an endpoint.
    pub(crate) last_remote: Option<SocketAddr>,
    /// The link in use.
    pub(crate) current: Option<usize>,
    /// The accepted link that last started to wait for the peer's hello.
    pub(crate) awaiting_hello: Option<usize>,
    pub(crate) dialler: Dialler,
    /// What was seen since it last had a link.
    pub(crate) dialling: Dialling,
    /// Since when it has no link, and whether the last one timed out.
    pub(crate) down: Option<Down>,
    /// A link of another process with the peer's identity, while the current one is asked for a sign of
    /// life.
    pub(crate) contender: Option<Contender>,
    pub(crate) contested: Option<Contested>,
    /// Whether it is dialled without ECN marks, because the path drops packets that have them.
    pub(crate) unmarked: bool,
    pub(crate) queue: Queue,
    /// The id of the next packet that is fragmented.
    pub(crate) next_fragment: u32,
    /// The peer's entry in the timers.
    pub(crate) armed: Option<Instant>,
}

/// The time without a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Down {
    pub since: Instant,
    /// Whether the last link ended because the peer was silent. Otherwise it was closed, or there was none.
    pub timed_out: bool,
}

impl Peer {
    pub(crate) fn new(name: Label) -> Self {
        Self {
            name,
            member: false,
            addresses: Vec::new(),
            last_remote: None,
            current: None,
            awaiting_hello: None,
            dialler: Dialler::default(),
            dialling: Dialling::default(),
            down: None,
            contender: None,
            contested: None,
            unmarked: false,
            queue: Queue::default(),
            next_fragment: 0,
            armed: None,
        }
    }

    /// The address to dial now, if any; schedules the next dial. `received` is the number of
    /// datagrams that the current link has received.
    pub(crate) fn dial(
        &mut self,
        now: Instant,
        received: Option<u64>,
        rng: &mut StdRng,
    ) -> Option<SocketAddr> {
        let candidates: Vec<_> = if self.member { self.candidates().collect() } else { Vec::new() };
        self.dialling.retain(&candidates);
        self.dialler.next_address(now, &candidates, self.current.is_some(), received, rng)
    }

    /// Whether the peer may be at this address.
    pub(crate) fn is_at(&self, address: IpAddr) -> bool {
        self.candidates().any(|candidate| candidate.ip() == address)
    }

    fn candidates(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let observed = self.last_remote.filter(|remote| !self.addresses.contains(remote));
        self.addresses.iter().copied().chain(observed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        peer.dialler.dial_at(now);
        let mut dialled = Vec::new();
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            dialled.push(peer.dial(now, None, &mut rng).unwrap().is_ipv4());
            let next = peer.dialler.next_dial().unwrap();
            longest = longest.max(next - now);
            now = next;
        }
        let max = dialler::MAX_BACKOFF;
        assert!(dialled.chunks(2).all(|pair| pair == [true, false]));
        assert!(longest <= max.mul_f64(1.25) && longest > max.mul_f64(0.7));
        assert_eq!(peer.dialler.epoch(), 40);
    }

    #[test]
    fn nobody_dials_without_an_address_without_membership_or_with_a_link() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        for change in [
            (|p: &mut Peer| p.addresses.clear()) as fn(&mut Peer),
            |p| p.member = false,
            |p| p.current = Some(0),
        ] {
            let mut peer = peer(&["203.0.113.7:1"]);
            change(&mut peer);
            peer.dialler.dial_at(now);
            assert_eq!(peer.dial(now, Some(3), &mut rng), None);
            assert_eq!(peer.dialler.next_dial(), None);
        }
    }

    #[test]
    fn after_a_move_the_peer_is_dialled_again_only_if_its_link_receives_nothing_on_the_new_path() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        for (received, dials) in [(7, true), (8, false)] {
            let mut peer = peer(&["203.0.113.7:1"]);
            peer.current = Some(0);
            peer.dialler.renew_at(now, Renewal::Migrating);
            assert_eq!(peer.dial(now, Some(7), &mut rng), None, "it waits first");
            let later = peer.dialler.next_dial().unwrap();
            assert_eq!(peer.dial(later, Some(received), &mut rng).is_some(), dials);
        }
    }

    #[test]
    fn a_move_does_not_postpone_a_renewal_that_is_due_soon() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        let mut peer = peer(&["203.0.113.7:1"]);
        peer.current = Some(0);
        peer.dialler.renew_at(now + Duration::from_secs(10), Renewal::Always);
        peer.dialler.renew_at(now, Renewal::Migrating);
        assert!(peer.dial(now, Some(7), &mut rng).is_some());
    }

    #[test]
    fn a_peer_without_endpoint_is_dialled_where_it_was_last_seen() {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        let mut peer = peer(&[]);
        peer.last_remote = Some("198.51.100.1:4000".parse().unwrap());
        peer.dialler.dial_at(now);
        assert_eq!(peer.dial(now, None, &mut rng), peer.last_remote);
    }
}

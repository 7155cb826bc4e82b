//! When to dial a peer, and at which of its addresses.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng};

/// Between two addresses of one peer, so that a dead one doesn't delay a good one (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Backoff after all addresses failed once; doubled with each round.
const MIN_BACKOFF: Duration = Duration::from_millis(600);
/// A path that works again carries traffic after this time and a handshake.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(4);
/// After this many rounds (about ten minutes) the backoff is [`ABSENT_BACKOFF`].
const ABSENT_AFTER: u32 = 150;
const ABSENT_BACKOFF: Duration = Duration::from_secs(15);
/// After this edge moved, a dialled link must receive something on its new path within this time.
const MIGRATION_TIMEOUT: Duration = Duration::from_millis(400);
/// A move doesn't postpone a renewal that is due this soon.
const RENEWAL_SOON: Duration = Duration::from_secs(60);
/// Rounds in which a new link is dialled while the old one works.
const MAX_RENEWAL_ROUNDS: u32 = 5;

#[derive(Debug, Default)]
pub(crate) struct Dialler {
    /// How often the peer was dialled; part of the hello. A later dial outranks an earlier one.
    epoch: u64,
    next: Option<Instant>,
    /// Rounds through all addresses without success.
    failures: u32,
    /// The next address of the round.
    cursor: usize,
    renewal: Option<Renewal>,
}

/// Why a peer is dialled although it has a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Renewal {
    /// The link will end soon, or can't follow this edge to its new address.
    Always,
    /// This edge moved, and its link migrates to the new address.
    Migrating,
    /// This edge moved a round trip ago. The link had received this many datagrams by then; one
    /// more proves that the migration worked.
    UnlessReceived(u64),
}

impl Dialler {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn next_dial(&self) -> Option<Instant> {
        self.next
    }

    /// Dials at `at` or earlier, starting with the first address.
    pub(crate) fn dial_at(&mut self, at: Instant) {
        self.failures = 0;
        self.cursor = 0;
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Dials after the backoff, which counts the link that just failed.
    pub(crate) fn dial_after_failure(&mut self, now: Instant) {
        self.failures += 1;
        self.next = Some(now + backoff(self.failures));
    }

    /// Dials again after the other process with this edge's identity had time to end.
    pub(crate) fn dial_after_refusal(&mut self, now: Instant) {
        self.next = Some(now + MAX_BACKOFF);
    }

    /// Dials no earlier than `at`: a handshake that is under way may still succeed.
    pub(crate) fn postpone(&mut self, at: Instant) {
        self.next = self.next.map(|next| next.max(at));
    }

    /// Dials at `at` although there is a link.
    pub(crate) fn renew_at(&mut self, at: Instant, why: Renewal) {
        let soon = self.next.is_some_and(|next| next <= at + RENEWAL_SOON);
        if !(soon && self.renewal == Some(Renewal::Always)) {
            self.renewal = Some(why);
        }
        self.dial_at(at);
    }

    /// To be called when a link is up, or none is needed any more.
    pub(crate) fn stop(&mut self) {
        self.next = None;
        self.renewal = None;
        self.cursor = 0;
    }

    /// See [`Peer::dial`](super::Peer::dial).
    pub(super) fn next_address(
        &mut self,
        now: Instant,
        candidates: &[SocketAddr],
        has_link: bool,
        received: Option<u64>,
        rng: &mut StdRng,
    ) -> Option<SocketAddr> {
        if self.next.is_none_or(|at| at > now) {
            return None;
        }
        if let (Some(Renewal::Migrating), Some(received)) = (self.renewal, received) {
            self.renewal = Some(Renewal::UnlessReceived(received));
            self.next = Some(now + MIGRATION_TIMEOUT);
            return None;
        }
        if candidates.is_empty() || (has_link && !self.needs_renewal(received)) {
            self.stop();
            return None;
        }
        let address = candidates[self.cursor % candidates.len()];
        self.cursor += 1;
        self.epoch += 1;
        let wait = if self.cursor.is_multiple_of(candidates.len()) {
            self.failures += 1;
            backoff(self.failures).mul_f64(rng.random_range(0.75..1.25))
        } else {
            ATTEMPT_DELAY
        };
        self.next = Some(now + wait);
        Some(address)
    }

    fn needs_renewal(&self, received: Option<u64>) -> bool {
        match self.renewal {
            None => false,
            Some(Renewal::UnlessReceived(before)) => {
                received.is_none_or(|received| received <= before)
            }
            Some(Renewal::Always | Renewal::Migrating) => self.failures < MAX_RENEWAL_ROUNDS,
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let max = if failures > ABSENT_AFTER { ABSENT_BACKOFF } else { MAX_BACKOFF };
    MIN_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}

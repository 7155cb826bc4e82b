//! Two processes with one identity: a restarted edge, or a data directory that was copied to another host.
//!
//! A new process of a peer may only replace a link whose end no longer answers. A restarted edge answers
//! packets of its old links with a stateless reset, which decides at once; one that is gone or has
//! another address stays silent. If the old end answers, two processes run: the link that works stays,
//! and the other is refused.

use std::time::{Duration, Instant};

use super::Mesh;
use crate::{
    link::{CloseCode, Link, Phase},
    peer::{Contender, Contested},
};

/// The old end must answer within three round trips and this.
const MARGIN: Duration = Duration::from_millis(250);
/// At most: longer than three round trips of the slowest paths that a link comes up on, so that on these a copy does not
/// win either.
const MAX_WAIT: Duration = Duration::from_secs(15);

impl Mesh {
    /// Lets `new`, a link of another process than the current link `old`, wait for a sign of life of the
    /// old one.
    pub(super) fn contest(&mut self, now: Instant, old: usize, new: usize, peer: u32) {
        let Some(link) = self.links.get_mut(old) else { return };
        let acks = link.conn.stats().frame_rx.acks;
        let wait = (3 * link.conn.rtt() + MARGIN).min(MAX_WAIT);
        link.conn.ping();
        self.links.mark_ready(old);
        let Some(link) = self.links.get_mut(new) else { return };
        link.phase = Phase::Contending;
        link.phase_end = Some(now + wait);
        self.arm_link(new);
        let before = self.peers[peer].contender.replace(Contender { link: new, acks });
        if let Some(before) = before.filter(|before| before.link != new) {
            self.close_link(now, before.link, CloseCode::Replaced);
        }
    }

    /// The time of a contender is over: it is refused if the old end has answered, and used otherwise.
    pub(super) fn decide_contest(&mut self, now: Instant, new: usize) {
        let Some(peer_index) = self.links.get(new).and_then(|link| link.peer) else { return };
        let peer = &mut self.peers[peer_index];
        let Some(contender) = peer.contender.take_if(|contender| contender.link == new) else {
            return self.close_link(now, new, CloseCode::Replaced);
        };
        let old = peer.current;
        let answered = old
            .and_then(|at| self.links.get(at))
            .is_some_and(|link| link.conn.stats().frame_rx.acks > contender.acks);
        if answered {
            let refused = self.links.get(new).map(|link| link.conn.remote_address());
            peer.contested = Some(Contested { at: now, refused });
            return self.close_link(now, new, CloseCode::InUse);
        }
        self.bring_up(now, new, peer_index);
        if let Some(old) = old {
            self.close_link(now, old, CloseCode::Replaced);
        }
    }

    /// The current link has ended; a contender takes its place. Returns whether there was one.
    pub(super) fn promote_contender(&mut self, now: Instant, peer: u32) -> bool {
        let Some(contender) = self.peers[peer].contender.take() else { return false };
        let waiting = |link: &Link| link.phase == Phase::Contending;
        if !self.links.get(contender.link).is_some_and(waiting) {
            return false;
        }
        self.bring_up(now, contender.link, peer);
        true
    }
}

//! Whether links work both ways: asked by a ping when nothing was acknowledged for a while, and by checks of the path.

use std::time::{Duration, Instant};

use super::Mesh;
use crate::{
    link::{Link, Phase, SUSPECT_INTERVAL},
    probe::Kind,
    timers::Key,
};

/// How often links are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A peer that has acknowledged nothing for this time is asked to.
const ASK_AFTER: Duration = Duration::from_millis(1800);
/// How often a link without ECN marks is tried with them.
const MARKS_INTERVAL: Duration = Duration::from_secs(60);

impl Mesh {
    pub(super) fn watch_links(&mut self, now: Instant) {
        self.watch_armed = None;
        let up = |link: &Link| link.phase == Phase::Up;
        let indices: Vec<usize> =
            self.links.iter().filter(|(_, link)| up(link)).map(|(index, _)| index).collect();
        for index in indices {
            let Some(link) = self.links.get_mut(index) else { continue };
            let asks = now.saturating_duration_since(link.update_acked(now)) >= ASK_AFTER;
            if asks {
                link.conn.ping();
            }
            if link.check_path(now) || asks {
                self.links.mark_ready(index);
            }
            self.try_marks(now, index);
        }
        self.arm_watch(now);
    }

    /// Asks from time to time whether the path of a link without ECN marks takes them again.
    fn try_marks(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        let (Some(peer), true) = (link.peer, link.is_dialed() && !link.outgoing.marked) else {
            return;
        };
        let age = now.saturating_duration_since(link.since).as_secs();
        // Ticks are a second apart, so each age in seconds is seen about once.
        if age.is_multiple_of(MARKS_INTERVAL.as_secs()) && self.peers[peer].unmarked {
            let remote = link.conn.remote_address();
            self.probe(now, peer, remote, Kind::Marked);
        }
    }

    /// Sets the timer if links need it.
    pub(super) fn arm_watch(&mut self, now: Instant) {
        if self.watch_armed.is_some() {
            return;
        }
        let links = self.peers.iter().filter_map(|peer| self.links.get(peer.current?));
        let suspect = links.map(|link| link.checks.is_suspect(now)).max();
        if let Some(suspect) = suspect {
            let interval = if suspect { SUSPECT_INTERVAL } else { INTERVAL };
            self.timers.arm(Key::Watch, &mut self.watch_armed, Some(now + interval));
        }
    }
}

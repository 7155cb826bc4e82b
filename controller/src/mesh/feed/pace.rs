//! Limits how often the edges of a namespace are sent an update.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cframe_pki::identity::Label;
use tokio::sync::Notify;

use crate::rate::{Rate, TokenBucket};

/// Sending costs time for each edge, so the interval between updates grows with the number of edges, within limits.
/// Changes in between are part of the next update.
const INTERVAL_PER_EDGE: Duration = Duration::from_millis(1);
const MIN_INTERVAL: Duration = Duration::from_millis(5);
const MAX_INTERVAL: Duration = Duration::from_millis(100);
/// Updates that follow each other at once: what one person does is never delayed.
const BURST: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Pace {
    bucket: TokenBucket,
    /// The time of the last deferred update.
    deferred: Option<Instant>,
}

impl Pace {
    /// Takes one update to this many edges. If it must wait, returns until when: it stands for all that come until
    /// then.
    pub(super) fn take(&mut self, now: Instant, edges: usize) -> Option<Instant> {
        if let Some(due) = self.deferred.filter(|due| *due > now) {
            return Some(due);
        }
        self.deferred = self.bucket.reserve(rate(edges), now);
        self.deferred
    }
}

fn rate(edges: usize) -> Rate {
    let edges = u32::try_from(edges).unwrap_or(u32::MAX);
    let interval = INTERVAL_PER_EDGE.saturating_mul(edges).clamp(MIN_INTERVAL, MAX_INTERVAL);
    Rate { burst: BURST, interval }
}

/// Deferred updates, at most one for each namespace.
#[derive(Debug, Default)]
pub(crate) struct DeferredUpdates {
    waiting: Mutex<BTreeMap<Label, Instant>>,
    added: Notify,
}

impl DeferredUpdates {
    /// The time of an update that waits already does not change: it will be of the newest version then.
    pub(crate) fn add(&self, namespace: &Label, due: Instant) {
        self.lock().entry(namespace.clone()).or_insert(due);
        self.added.notify_one();
    }

    /// Waits until one is due. Only one task may wait.
    pub(crate) async fn due(&self) {
        loop {
            let first = self.lock().values().min().copied();
            let Some(due) = first else {
                self.added.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => return,
                () = self.added.notified() => {}
            }
        }
    }

    /// Removes and returns those that are due.
    pub(crate) fn take_due(&self, now: Instant) -> Vec<Label> {
        let mut waiting = self.lock();
        let due: Vec<Label> =
            waiting.iter().filter(|(_, due)| **due <= now).map(|(name, _)| name.clone()).collect();
        for name in &due {
            waiting.remove(name);
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Label, Instant>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 1000;
    const EVERY: Duration = MAX_INTERVAL;

    #[test]
    fn a_few_go_at_once_and_many_ten_times_a_second() {
        let mut pace = Pace::default();
        let started = Instant::now();
        for _ in 0..BURST {
            assert_eq!(pace.take(started, MANY), None);
        }
        for _ in 0..100 {
            assert_eq!(pace.take(started, MANY), Some(started + EVERY), "all that come are in one");
        }
        // The deferred one was sent by then; the next is another tenth of a second away.
        assert_eq!(pace.take(started + EVERY, MANY), Some(started + 2 * EVERY));
    }

    #[test]
    fn it_fills_up_again_and_not_beyond() {
        let mut pace = Pace::default();
        let started = Instant::now();
        while pace.take(started, MANY).is_none() {}
        let later = started + EVERY * 100;
        let at_once = (0..2 * BURST).filter(|_| pace.take(later, MANY).is_none()).count();
        assert_eq!(at_once, BURST as usize);
    }

    #[test]
    fn the_fewer_edges_the_sooner() {
        for (edges, expected) in [(0, 5), (3, 5), (40, 40), (100, 100), (10_000, 100)] {
            let mut pace = Pace::default();
            let started = Instant::now();
            let due = std::iter::repeat_with(|| pace.take(started, edges)).find_map(|due| due);
            assert_eq!(due, Some(started + Duration::from_millis(expected)), "{edges}");
        }
    }
}

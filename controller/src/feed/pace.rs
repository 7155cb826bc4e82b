//! How often the edges of a namespace are told of a new version.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cframe_pki::identity::Label;
use tokio::sync::Notify;

/// In the long run an update is followed by the next after this long for each edge that is told, within bounds:
/// it is the telling that costs. What changes meanwhile is in that one.
const FOR_EACH: Duration = Duration::from_millis(1);
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(100);
/// So many may follow each other at once: what a person does is never held up.
const BURST: u32 = 8;

/// A bucket of [`BURST`] announcements that fills by one after each [`interval`], kept as the time at which it
/// will be full (the virtual scheduling of ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct Pace {
    full: Option<Instant>,
    /// For when one was put off last.
    put_off: Option<Instant>,
}

impl Pace {
    /// Takes one, which so many edges are told of; or says when there will be one, which is taken for whoever
    /// asks until then.
    pub(super) fn take(&mut self, now: Instant, edges: usize) -> Option<Instant> {
        let every = interval(edges);
        if let Some(due) = self.put_off.filter(|due| *due > now) {
            return Some(due);
        }
        let full = self.full.filter(|full| *full > now).unwrap_or(now);
        self.put_off = full.checked_sub(every * (BURST - 1)).filter(|due| *due > now);
        self.full = Some(full + every);
        self.put_off
    }
}

fn interval(edges: usize) -> Duration {
    let edges = u32::try_from(edges).unwrap_or(u32::MAX);
    FOR_EACH.saturating_mul(edges).clamp(SHORTEST, LONGEST)
}

/// Announcements that are put off, one for each namespace at most.
#[derive(Debug, Default)]
pub(crate) struct PutOff {
    waiting: Mutex<BTreeMap<Label, Instant>>,
    added: Notify,
}

impl PutOff {
    /// One that is there already stays as it is: it will be of the newest version then.
    pub(crate) fn add(&self, namespace: &Label, due: Instant) {
        self.lock().entry(namespace.clone()).or_insert(due);
        self.added.notify_one();
    }

    /// Waits until one is due. One waits at a time.
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

    /// Takes those out that are due.
    pub(crate) fn take(&self, now: Instant) -> Vec<Label> {
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
    const EVERY: Duration = LONGEST;

    #[test]
    fn a_few_go_at_once_and_many_ten_times_a_second() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        for _ in 0..BURST {
            assert_eq!(pace.take(begun, MANY), None);
        }
        for _ in 0..100 {
            assert_eq!(pace.take(begun, MANY), Some(begun + EVERY), "all that come are in one");
        }
        // The one that was put off has gone by then; the next is another tenth of a second away.
        assert_eq!(pace.take(begun + EVERY, MANY), Some(begun + 2 * EVERY));
    }

    #[test]
    fn it_fills_up_again_and_not_beyond() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        while pace.take(begun, MANY).is_none() {}
        let later = begun + EVERY * 100;
        let at_once = (0..2 * BURST).filter(|_| pace.take(later, MANY).is_none()).count();
        assert_eq!(at_once, BURST as usize);
    }

    #[test]
    fn the_fewer_edges_the_sooner() {
        for (edges, expected) in [(0, 5), (3, 5), (40, 40), (100, 100), (10_000, 100)] {
            let mut pace = Pace::default();
            let begun = Instant::now();
            let due = std::iter::repeat_with(|| pace.take(begun, edges)).find_map(|due| due);
            assert_eq!(due, Some(begun + Duration::from_millis(expected)), "{edges}");
        }
    }
}

//! The deadlines of all links and peers.

use std::{collections::BTreeSet, time::Instant};

/// The owner of a deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) enum Key {
    Link(usize),
    Peer(u32),
    Watch,
}

#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Instant, Key)>);

impl Timers {
    /// Moves the owner's deadline from `armed` to `at`.
    pub(crate) fn arm(&mut self, key: Key, armed: &mut Option<Instant>, at: Option<Instant>) {
        if *armed == at {
            return;
        }
        if let Some(old) = armed.take() {
            self.0.remove(&(old, key));
        }
        if let Some(at) = at {
            self.0.insert((at, key));
        }
        *armed = at;
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Removes one deadline that has passed. Its owner must clear its `armed`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Key> {
        let first = self.0.first().filter(|(at, _)| *at <= now)?;
        let entry = *first;
        self.0.remove(&entry);
        Some(entry.1)
    }
}

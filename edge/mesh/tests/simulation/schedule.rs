//! A queue of tasks in the order of their time; of equal times, in the order in which they were
//! added.

use std::{cmp::Ordering, collections::BinaryHeap, time::Duration};

pub(crate) struct Schedule<T> {
    heap: BinaryHeap<Entry<T>>,
    sequence: u64,
}

struct Entry<T> {
    at: Duration,
    sequence: u64,
    task: T,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }
}

impl<T> Schedule<T> {
    pub(crate) fn push(&mut self, at: Duration, task: T) {
        self.sequence += 1;
        self.heap.push(Entry { at, sequence: self.sequence, task });
    }

    /// The next task, if it is due at `until` or earlier.
    pub(crate) fn pop(&mut self, until: Duration) -> Option<(Duration, T)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.task))
    }
}

impl<T> Entry<T> {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.sequence)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest entry is the greatest, as a [`BinaryHeap`] needs it.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

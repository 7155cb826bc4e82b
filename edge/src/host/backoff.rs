//! How soon something is put back that another program undoes again and again. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::culprit::{Culprit, who};

/// One change of another program causes several notifications.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// What lasts this long after it was put back was not undone.
const QUIET: Duration = Duration::from_secs(8);
/// This many times in a minute are more than a restart of another program causes.
const MANY: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);
const MAX_TIMES: usize = 1000;

/// What the edge has set and another program undoes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// In the words of a sentence, such as `the policy rule`.
    pub what: &'static str,
    pub times_in_a_minute: usize,
    pub by: Option<Culprit>,
    /// How long a repair waits now.
    pub delay: Duration,
}

#[derive(Debug)]
pub(super) struct Backoff {
    what: &'static str,
    times: VecDeque<Instant>,
    delay: Duration,
    due: Option<Instant>,
    by: Option<Culprit>,
}

impl Backoff {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, times: VecDeque::new(), delay: FIRST_DELAY, due: None, by: None }
    }

    /// Records that it was undone. It is due for repair after a delay that grows.
    pub(super) fn record(&mut self, by: Option<Culprit>, now: Instant) {
        self.by = by.or_else(|| self.by.take());
        if self.due.is_some() {
            return;
        }
        self.delay = match self.times.back() {
            Some(last) if now.duration_since(*last) < QUIET => (self.delay * 2).min(MAX_DELAY),
            _ => FIRST_DELAY,
        };
        self.forget(now);
        if self.times.len() == MAX_TIMES {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.due = Some(now + self.delay);
    }

    /// Makes a repair due that is no answer to another program.
    pub(super) fn record_once(&mut self, now: Instant) {
        self.due.get_or_insert(now);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a repair is due, which counts as made from now on.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
        }
        is_due
    }

    /// How long the repair waits that is due, for somebody who waits.
    pub(super) fn take_delay(&mut self) -> Duration {
        self.due = None;
        self.delay
    }

    /// Whether this repair should be logged: later ones are a problem that is logged once.
    pub(super) fn is_worth_a_line(&self) -> bool {
        self.times.len() < MANY
    }

    pub(super) fn culprit(&self) -> String {
        who(self.by.as_ref())
    }

    pub(super) fn undone(&mut self, now: Instant) -> Option<Undone> {
        self.forget(now);
        let last = *self.times.back()?;
        let lasts = now.duration_since(last) < QUIET.max(2 * self.delay);
        (lasts && self.times.len() >= MANY).then(|| Undone {
            what: self.what,
            times_in_a_minute: self.times.len(),
            by: self.by.clone(),
            delay: self.delay,
        })
    }

    fn forget(&mut self, now: Instant) {
        while self.times.front().is_some_and(|at| now.duration_since(*at) > MINUTE) {
            self.times.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_are_fast_at_first_ever_slower_and_fast_again_after_quiet() {
        let (mut backoff, start) = (Backoff::new("a rule"), Instant::now());
        let mut now = start;
        for round in 1..=30 {
            backoff.record(None, now);
            let due = backoff.due().unwrap();
            assert!(due - now <= MAX_DELAY);
            if round <= 5 {
                assert!(due - now < Duration::from_millis(500), "{round}: {:?}", due - now);
            }
            assert!(!backoff.take(due - Duration::from_millis(1)) && backoff.take(due));
            assert_eq!(backoff.is_worth_a_line(), round < MANY && due - start < MINUTE);
            now = due;
        }
        // A program that undoes at once is answered once in five seconds.
        assert!(now - start > Duration::from_secs(100), "{:?}", now - start);
        assert!(backoff.undone(now).is_some());
        let later = now + QUIET + MAX_DELAY;
        assert_eq!(backoff.undone(later), None);
        backoff.record(None, later);
        assert_eq!(backoff.due(), Some(later + FIRST_DELAY));
    }
}

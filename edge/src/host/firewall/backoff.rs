//! How soon the table is repaired, when others remove it again and again. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Culprit, facts::Undone};

/// A transaction of another program can concern the table several times.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// A repair that lasts this long was not undone.
const QUIET: Duration = Duration::from_secs(8);
/// This many repairs in a minute are more than a firewall's restarts.
const MANY: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);
const MAX_TIMES: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// When the table was changed by others, in the last minute.
    times: VecDeque<Instant>,
    delay: Duration,
    culprit: Option<Culprit>,
}

impl Backoff {
    /// Records a change by another program, and returns when to repair it.
    pub(super) fn record(&mut self, culprit: Option<Culprit>, now: Instant) -> Instant {
        self.delay = match self.times.back() {
            Some(last) if now.duration_since(*last) < QUIET => {
                (self.delay * 2).clamp(FIRST_DELAY, MAX_DELAY)
            }
            _ => FIRST_DELAY,
        };
        self.forget(now);
        if self.times.len() == MAX_TIMES {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.culprit = culprit.or_else(|| self.culprit.take());
        now + self.delay
    }

    /// Whoever undoes the repairs now, if there is one.
    pub(super) fn undone(&mut self, now: Instant) -> Option<Undone> {
        self.forget(now);
        let last = *self.times.back()?;
        (self.times.len() >= MANY && now.duration_since(last) < QUIET.max(2 * self.delay)).then(
            || Undone {
                by: self.culprit.clone(),
                times_in_a_minute: self.times.len(),
                delay: self.delay,
            },
        )
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
    fn a_repair_is_immediate_and_slows_down_while_it_is_undone() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let mut now = start;
        for round in 0..20 {
            let at = backoff.record(None, now);
            assert!(at - now <= MAX_DELAY);
            if round == 0 {
                assert_eq!(at - now, FIRST_DELAY);
            }
            assert_eq!(backoff.undone(now).is_some(), round + 1 >= MANY);
            now = at;
        }
        assert!(now - start > Duration::from_secs(40), "{:?}", now - start);
        assert_eq!(backoff.undone(now + 2 * MAX_DELAY + QUIET), None, "it is over");
        let at = backoff.record(None, now + 3 * QUIET);
        assert_eq!(at, now + 3 * QUIET + FIRST_DELAY, "and starts again");
    }
}

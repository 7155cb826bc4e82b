//! Controlled delay (RFC 8289): which packets to give up, so that a queue that stands does not stay.

use std::time::{Duration, Instant};

/// What a queue is held to.
#[derive(Debug)]
pub(crate) struct Law {
    /// A wait that is acceptable for good (RFC 8289 §4.3).
    pub(crate) target: Duration,
    /// How long the wait may be above that before a packet is given up: some round trips
    /// (RFC 8289 §4.2).
    pub(crate) interval: Duration,
}

/// The state of RFC 8289 §5.
#[derive(Debug, Default)]
pub(crate) struct Codel {
    /// When the wait will have been too long for an interval.
    first_above: Option<Instant>,
    /// When the next packet is given up, while any are.
    dropping: Option<Instant>,
    /// Packets given up since that began, and where it began.
    count: u32,
    began: u32,
    /// When the next one would have been given up, had it not ended.
    left: Option<Instant>,
}

impl Codel {
    /// Whether to give up the packet that comes out of the queue at `now`, after it `waited`.
    #[inline]
    pub(crate) fn gives_up(&mut self, law: &Law, now: Instant, waited: Duration) -> bool {
        if waited < law.target {
            self.relax();
            return false;
        }
        self.judge(law, now)
    }

    /// The wait is short, or too little is there to wait for.
    #[inline]
    pub(crate) fn relax(&mut self) {
        self.first_above = None;
        if let Some(next) = self.dropping.take() {
            self.left = Some(next);
        }
    }

    #[cold]
    fn judge(&mut self, law: &Law, now: Instant) -> bool {
        let first_above = *self.first_above.get_or_insert(now + law.interval);
        match self.dropping {
            None if now >= first_above => self.enter(law, now),
            Some(next) if now >= next => {
                self.count += 1;
                self.dropping = Some(next + law.spacing(self.count));
            }
            None | Some(_) => return false,
        }
        true
    }

    /// Begins where it left off, if that was not long ago.
    fn enter(&mut self, law: &Law, now: Instant) {
        let lately =
            self.left.is_some_and(|at| now.saturating_duration_since(at) < 16 * law.interval);
        self.count = if lately { (self.count - self.began).max(1) } else { 1 };
        self.began = self.count;
        self.dropping = Some(now + law.spacing(self.count));
    }
}

impl Law {
    /// The control law (RFC 8289 §5.2): ever closer, until the flow slows down.
    fn spacing(&self, count: u32) -> Duration {
        self.interval.div_f64(f64::from(count).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LAW: Law = Law { target: Duration::from_millis(5), interval: Duration::from_millis(100) };

    /// What is given up of a packet a millisecond, each of which waits as `waited` says.
    fn run(
        codel: &mut Codel,
        start: Instant,
        ms: u32,
        waited: impl Fn(u32) -> Duration,
    ) -> Vec<u32> {
        (0..ms).filter(|&at| codel.gives_up(&LAW, start + at * MS, waited(at))).collect()
    }

    #[test]
    fn short_waits_and_short_bursts_are_let_be() {
        let start = Instant::now();
        let mut codel = Codel::default();
        assert!(run(&mut codel, start, 1000, |_| 4 * MS).is_empty());
        let saw = |at: u32| if at.is_multiple_of(90) { MS } else { 40 * MS };
        assert!(run(&mut codel, start, 1000, saw).is_empty(), "bursts shorter than an interval");
    }

    #[test]
    fn a_queue_that_stands_loses_packets_ever_faster() {
        let given_up = run(&mut Codel::default(), Instant::now(), 1000, |_| 20 * MS);
        assert_eq!(given_up[0], 100);
        let gaps: Vec<u32> = given_up.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[0], 100);
        assert!(gaps.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{gaps:?}");
        assert!(*gaps.last().unwrap() < 35, "{gaps:?}");
    }

    #[test]
    fn after_a_short_pause_it_goes_on_where_it_was() {
        let start = Instant::now();
        let mut codel = Codel::default();
        let first = run(&mut codel, start, 2000, |_| 20 * MS).len();
        assert!(!codel.gives_up(&LAW, start + 2000 * MS, MS));
        let again = run(&mut codel, start + 2001 * MS, 600, |_| 20 * MS);
        let fresh = run(&mut Codel::default(), start, 600, |_| 20 * MS);
        assert!(again.len() > 2 * fresh.len(), "{} then {again:?}, not {fresh:?}", first);
    }
}

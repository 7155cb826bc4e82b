//! Whether packets of a link arrive, asked of the peer on the link itself.
//!
//! A link stays up while keep-alives pass, which are small, and while some packets pass. Whether others do is
//! measured: a datagram of the smallest size that every path must carry (RFC 9000 §14) every few seconds, and a
//! series of small and full ones while packets are lost. The peer answers each with a small one. Acknowledgements
//! would not do: they say nothing of the size, and packets that overtake each other count as lost.
//!
//! ```text
//!  0        1                    5
//! +--------+--------------------+---------
//! |  kind  | number (u32, BE)   | zeros …     0x02: a check; 0x03: its answer, without zeros
//! +--------+--------------------+---------
//! ```

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The first byte of a check, and of its answer.
pub(crate) const CHECK: u8 = 0x02;
pub(crate) const CHECKED: u8 = 0x03;

/// How often a link is checked on which no packet was lost.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a link is checked on which packets are lost.
pub(crate) const SUSPECT_INTERVAL: Duration = Duration::from_millis(250);
const FULL_INTERVAL: Duration = Duration::from_secs(1);
/// A link is checked for this long after a packet was lost.
const SUSPECT_FOR: Duration = Duration::from_secs(10);
/// Small checks at a time.
const SMALL_CHECKS: usize = 4;
/// Full checks at a time, after one was lost.
const FULL_CHECKS: usize = 6;
/// Full checks that are lost in a row on a path that is too narrow. On one that loses a tenth of the checks at
/// random, it happens once in years.
const NARROW_AFTER: usize = 7;
/// An answer is late after this time and three round trips.
const ANSWER_TIME: Duration = Duration::from_millis(400);
/// The loss is counted over this time.
const WINDOW: Duration = Duration::from_secs(8);
/// The fewest checks that show a loss.
const MIN_CHECKS: usize = 48;
/// The share of checks at which a loss is shown, and below which it is not shown any more. A healthy path may lose
/// a twentieth in each direction.
const LOSSY: f64 = 0.22;
const LOSSY_NO_MORE: f64 = 0.15;
/// A loss is over when the checks of this time show less than this: an outage of a moment ago is no loss now.
const RECENT: Duration = Duration::from_secs(3);
const LOSSY_NOW: f64 = 0.12;
/// Checks that are remembered, and answers that wait to be sent.
const MAX_SENT: usize = 512;
const MAX_ANSWERS: usize = 64;

/// How a path treats the packets of its link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PathQuality {
    /// Packets of 1,200 bytes do not arrive at the peer, and small ones do.
    pub is_too_narrow: bool,
    /// The share of packets that are lost, there or back, if it is large.
    pub loss: Option<f64>,
}

#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The oldest first.
    sent: VecDeque<Check>,
    next_number: u32,
    /// Checks that wait to be sent, each in a packet of its own.
    small_queued: usize,
    full_queued: usize,
    /// Numbers that the peer waits for.
    answers: VecDeque<u32>,
    next_full: Option<Instant>,
    suspect_until: Option<Instant>,
    /// Packets that quinn-proto took for lost.
    lost_packets: u64,
    quality: PathQuality,
    /// Whether the peer has answered a check. One of an earlier version never does.
    peer_answers: bool,
}

#[derive(Debug)]
struct Check {
    number: u32,
    at: Instant,
    is_full: bool,
    answered: bool,
}

/// The outcomes of checks that are decided.
#[derive(Debug, Default)]
struct Outcomes {
    small: usize,
    small_lost: usize,
    /// Of these, the latest ones.
    recent: usize,
    recent_lost: usize,
    /// Full checks that were lost since the last one that was answered.
    full_lost: usize,
    /// Small checks that were answered meanwhile.
    small_meanwhile: usize,
}

impl Checks {
    pub(crate) fn quality(&self) -> PathQuality {
        self.quality
    }

    /// Whether packets were lost a moment ago.
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.suspect_until.is_some_and(|until| now < until)
    }

    /// Looks at what was answered, and queues checks if it is time to. Returns whether it did.
    pub(crate) fn update(&mut self, now: Instant, rtt: Duration, lost_packets: u64) -> bool {
        let wait = ANSWER_TIME + 3 * rtt;
        let old = |check: &Check| now.saturating_duration_since(check.at) > WINDOW + wait;
        while self.sent.len() > MAX_SENT || self.sent.front().is_some_and(old) {
            self.sent.pop_front();
        }
        let outcomes = self.outcomes(now, wait);
        self.quality = self.judge(&outcomes);
        let lost = lost_packets > std::mem::replace(&mut self.lost_packets, lost_packets);
        let checks_lost = outcomes.full_lost > 0 || outcomes.small_lost > 0;
        if lost || (checks_lost && self.peer_answers) {
            self.suspect_until = Some(now + SUSPECT_FOR);
        }
        let is_suspect = self.is_suspect(now);
        self.small_queued = if is_suspect { SMALL_CHECKS } else { 0 };
        let next_full = *self.next_full.get_or_insert(now);
        if next_full <= now || (is_suspect && next_full > now + FULL_INTERVAL) {
            self.full_queued = if outcomes.full_lost > 0 { FULL_CHECKS } else { 1 };
            self.next_full = Some(now + if is_suspect { FULL_INTERVAL } else { IDLE_INTERVAL });
        }
        self.small_queued + self.full_queued > 0
    }

    fn outcomes(&self, now: Instant, wait: Duration) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut in_a_row = true;
        let is_recent = |check: &Check| now.saturating_duration_since(check.at) < wait + RECENT;
        let decided =
            |check: &&Check| check.answered || now.saturating_duration_since(check.at) >= wait;
        for check in self.sent.iter().rev().filter(decided) {
            match (check.is_full, check.answered) {
                (true, true) => in_a_row = false,
                (true, false) => outcomes.full_lost += usize::from(in_a_row),
                (false, answered) => {
                    outcomes.small += 1;
                    outcomes.small_lost += usize::from(!answered);
                    outcomes.recent += usize::from(is_recent(check));
                    outcomes.recent_lost += usize::from(is_recent(check) && !answered);
                    outcomes.small_meanwhile += usize::from(answered && in_a_row);
                }
            }
        }
        outcomes
    }

    #[expect(clippy::cast_precision_loss, reason = "a share of hundreds")]
    fn judge(&self, outcomes: &Outcomes) -> PathQuality {
        let share = |lost: usize, of: usize| lost as f64 / of.max(1) as f64;
        let recently = share(outcomes.recent_lost, outcomes.recent);
        let share = share(outcomes.small_lost, outcomes.small);
        let least = if self.quality.loss.is_some() { LOSSY_NO_MORE } else { LOSSY };
        if !self.peer_answers {
            return PathQuality::default();
        }
        let is_lossy = outcomes.small >= MIN_CHECKS && share >= least && recently >= LOSSY_NOW;
        PathQuality {
            is_too_narrow: outcomes.full_lost >= NARROW_AFTER && outcomes.small_meanwhile > 0,
            loss: is_lossy.then_some(share),
        }
    }

    /// Whether a check or an answer waits to be sent.
    pub(crate) fn wants_to_send(&self) -> bool {
        !self.answers.is_empty() || self.small_queued + self.full_queued > 0
    }

    /// The next check or answer. `full` is the size of a full one in bytes.
    pub(crate) fn next(&mut self, now: Instant, full: usize) -> Option<Vec<u8>> {
        if let Some(number) = self.answers.pop_front() {
            return Some(encode(CHECKED, number).to_vec());
        }
        let is_full = self.full_queued > 0;
        let queued = if is_full { &mut self.full_queued } else { &mut self.small_queued };
        *queued = queued.checked_sub(1)?;
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.sent.push_back(Check { number, at: now, is_full, answered: false });
        let mut bytes = encode(CHECK, number).to_vec();
        if is_full {
            bytes.resize(full.max(bytes.len()), 0);
        }
        Some(bytes)
    }

    /// Handles a check of the peer, or an answer of it. Returns false if the datagram is neither.
    pub(crate) fn receive(&mut self, datagram: &[u8]) -> bool {
        let Some((&kind, rest)) = datagram.split_first() else { return false };
        let Some(number) = rest.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return false;
        };
        match kind {
            CHECK if self.answers.len() < MAX_ANSWERS => self.answers.push_back(number),
            CHECK => {}
            CHECKED => {
                if let Some(check) = self.sent.iter_mut().find(|check| check.number == number) {
                    check.answered = true;
                    self.peer_answers = true;
                }
            }
            _ => return false,
        }
        true
    }
}

fn encode(kind: u8, number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [kind, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);

    /// Checks a path for some seconds. `arrives` decides by size and the number of the check.
    fn run(
        checks: &mut Checks,
        start: Instant,
        secs: u64,
        arrives: impl Fn(usize, u32) -> bool,
    ) -> (usize, usize) {
        let (mut packets, mut bytes) = (0, 0);
        for tick in 0..secs * 4 {
            let now = start + SUSPECT_INTERVAL * u32::try_from(tick).unwrap();
            checks.update(now, RTT, 0);
            while let Some(check) = checks.next(now, 1160) {
                (packets, bytes) = (packets + 1, bytes + check.len());
                let number = u32::from_be_bytes(*check[1..].first_chunk().unwrap());
                if arrives(check.len(), number) {
                    assert!(checks.receive(&encode(CHECKED, number)));
                }
            }
        }
        (packets, bytes)
    }

    #[test]
    fn a_path_without_loss_is_checked_every_five_seconds() {
        let mut checks = Checks::default();
        assert_eq!(run(&mut checks, Instant::now(), 60, |_, _| true).0, 12);
        assert_eq!(checks.quality(), PathQuality::default());
    }

    #[test]
    fn a_path_that_loses_full_packets_only_is_too_narrow_within_eight_seconds_and_wide_again_after_two()
     {
        let (mut checks, start) = (Checks::default(), Instant::now());
        run(&mut checks, start, 1, |_, _| true);
        // The next check of an idle link is after five seconds.
        run(&mut checks, start + FULL_INTERVAL, 8, |len, _| len < 900);
        assert_eq!(checks.quality(), PathQuality { is_too_narrow: true, loss: None });
        run(&mut checks, start + 9 * FULL_INTERVAL, 2, |_, _| true);
        assert_eq!(checks.quality(), PathQuality::default());
    }

    #[test]
    fn a_loss_of_a_third_is_shown_and_one_of_a_tenth_is_not() {
        let start = Instant::now();
        for (one_in, lossy) in [(3, true), (10, false)] {
            let mut checks = Checks::default();
            run(&mut checks, start, 12, |_, number| number % one_in != 0);
            assert_eq!(checks.quality().loss.is_some(), lossy, "one in {one_in}");
            run(&mut checks, start + Duration::from_secs(12), 4, |_, _| true);
            assert_eq!(checks.quality().loss, None);
        }
    }

    #[test]
    fn a_check_is_answered_with_its_number_and_nothing_else_is() {
        let (mut checks, now) = (Checks::default(), Instant::now());
        assert!(checks.receive(&[CHECK, 0, 0, 1, 2, 0, 0]));
        assert!(checks.wants_to_send());
        assert_eq!(checks.next(now, 1160).unwrap(), [CHECKED, 0, 0, 1, 2]);
        for other in [&[][..], &[CHECK], &[CHECKED, 1, 2, 3], &[0x04, 0, 0, 0, 0]] {
            assert!(!checks.receive(other), "{other:?}");
        }
        for number in 0..1000 {
            checks.receive(&encode(CHECK, number));
        }
        assert_eq!(checks.answers.len(), MAX_ANSWERS);
    }
}

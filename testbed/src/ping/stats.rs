use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// One echo request.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// When it was sent.
    pub sent: Instant,
    /// How long its answer took, if there was one.
    pub rtt: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) probes: Vec<Probe>,
    answered: usize,
    duplicates: u64,
    send_errors: u64,
    last_error: Option<String>,
}

impl Record {
    pub(super) fn sent(&mut self, sent: Instant, result: io::Result<()>) {
        self.probes.push(Probe { sent, rtt: None });
        if let Err(error) = result {
            self.send_errors += 1;
            self.last_error = Some(error.to_string());
        }
    }

    pub(super) fn answered(&mut self, sequence: u64, now: Instant) {
        let probe = usize::try_from(sequence).ok().and_then(|index| self.probes.get_mut(index));
        match probe {
            Some(probe) if probe.rtt.is_none() => {
                probe.rtt = Some(now - probe.sent);
                self.answered += 1;
            }
            Some(_) => self.duplicates += 1,
            None => {}
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.probes.len() - self.answered
    }

    /// With `all_in`, what has no answer is lost.
    pub(super) fn stats(&self, all_in: bool) -> PingStats {
        let lost = if all_in { self.lost() } else { Vec::new() };
        let mut rtts: Vec<_> = self.probes.iter().filter_map(|probe| probe.rtt).collect();
        rtts.sort_unstable();
        PingStats {
            sent: self.probes.len(),
            received: self.answered,
            lost,
            duplicates: self.duplicates,
            send_errors: self.send_errors,
            last_error: self.last_error.clone(),
            first_reply: self
                .arrivals()
                .into_iter()
                .min()
                .zip(self.probes.first())
                .map(|(at, first)| at - first.sent),
            longest_gap: self.longest_gap(),
            median_rtt: rtts.get(rtts.len() / 2).copied(),
            max_rtt: rtts.last().copied(),
            probes: self.probes.clone(),
        }
    }

    fn lost(&self) -> Vec<usize> {
        (0..self.probes.len()).filter(|index| self.probes[*index].rtt.is_none()).collect()
    }

    fn arrivals(&self) -> Vec<Instant> {
        self.probes.iter().filter_map(|probe| Some(probe.sent + probe.rtt?)).collect()
    }

    fn longest_gap(&self) -> Duration {
        let (Some(first), Some(last)) = (self.probes.first(), self.probes.last()) else {
            return Duration::ZERO;
        };
        let mut moments = self.arrivals();
        moments.extend([first.sent, last.sent]);
        moments.sort_unstable();
        moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// What was seen of a series of echo requests. Displays as one line.
#[derive(Clone, Debug)]
pub struct PingStats {
    /// Requests sent, or tried to be.
    pub sent: usize,
    /// Requests answered.
    pub received: usize,
    /// The numbers of those that were not, from 0; empty while the series goes on.
    pub lost: Vec<usize>,
    /// Answers beyond the first.
    pub duplicates: u64,
    /// Requests that the sending host itself refused to send.
    pub send_errors: u64,
    /// The last reason for that.
    pub last_error: Option<String>,
    /// From the first request to the first answer, whichever it belongs to.
    pub first_reply: Option<Duration>,
    /// The longest time in which no answer came, from the first request to the last.
    pub longest_gap: Duration,
    /// The median of the round-trip times.
    pub median_rtt: Option<Duration>,
    /// The longest round-trip time.
    pub max_rtt: Option<Duration>,
    /// Every request.
    pub probes: Vec<Probe>,
}

impl fmt::Display for PingStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} received, longest gap {:.1?}",
            self.sent, self.received, self.longest_gap
        )?;
        if let Some(rtt) = self.median_rtt {
            write!(f, ", median rtt {rtt:.1?}")?;
        }
        if let Some(error) = &self.last_error {
            write!(f, ", {} not sent: {error}", self.send_errors)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn losses_and_the_longest_gap_are_those_of_the_answers() {
        let start = Instant::now();
        let mut record = Record::default();
        for number in 0..10 {
            record.sent(start + number * 10 * MS, Ok(()));
        }
        for number in [0, 1, 2, 7, 8, 8] {
            record.answered(number, start + u32::try_from(number).unwrap() * 10 * MS + MS);
        }
        let stats = record.stats(true);
        assert_eq!((stats.sent, stats.received, stats.duplicates), (10, 5, 1));
        assert_eq!(stats.lost, [3, 4, 5, 6, 9]);
        assert_eq!(stats.longest_gap, 50 * MS);
        assert_eq!(stats.first_reply, Some(MS));
        assert_eq!(stats.median_rtt, Some(MS));
    }

    #[test]
    fn a_series_without_any_answer_is_one_gap() {
        let start = Instant::now();
        let mut record = Record::default();
        record.sent(start, Ok(()));
        record.sent(start + 30 * MS, Err(io::ErrorKind::NetworkUnreachable.into()));
        let stats = record.stats(true);
        assert_eq!((stats.longest_gap, stats.first_reply, stats.send_errors), (30 * MS, None, 1));
    }
}

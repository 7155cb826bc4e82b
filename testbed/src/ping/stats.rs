use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// One echo request.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub sent: Instant,
    /// Round-trip time; `None` if there is no reply.
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

    /// If `finished`, requests without a reply count as lost.
    pub(super) fn stats(&self, finished: bool) -> PingStats {
        let lost = if finished { self.lost() } else { Vec::new() };
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

/// Results of a series of echo requests. Displays as one line.
#[derive(Clone, Debug)]
pub struct PingStats {
    /// Requests sent, failed attempts included.
    pub sent: usize,
    /// Requests answered.
    pub received: usize,
    /// Numbers of requests without a reply, from 0; empty while the series runs.
    pub lost: Vec<usize>,
    /// Replies beyond the first to a request.
    pub duplicates: u64,
    /// Requests that the kernel refused to send.
    pub send_errors: u64,
    /// The reason of the last send error.
    pub last_error: Option<String>,
    /// Time from the first request to the first reply to any request.
    pub first_reply: Option<Duration>,
    /// The longest time without a reply, between the first and the last request.
    pub longest_gap: Duration,
    pub median_rtt: Option<Duration>,
    pub max_rtt: Option<Duration>,
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
    fn losses_and_the_longest_gap_follow_from_the_replies() {
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
    fn a_series_without_any_reply_is_one_gap() {
        let start = Instant::now();
        let mut record = Record::default();
        record.sent(start, Ok(()));
        record.sent(start + 30 * MS, Err(io::ErrorKind::NetworkUnreachable.into()));
        let stats = record.stats(true);
        assert_eq!((stats.longest_gap, stats.first_reply, stats.send_errors), (30 * MS, None, 1));
    }
}

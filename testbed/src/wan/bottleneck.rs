use std::time::Duration;

/// A link of limited rate with a FIFO queue in front of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Bottleneck {
    /// When the last packet of the queue will have been sent.
    free_at: Duration,
    /// The fraction of a nanosecond after `free_at`, in bits × 10⁹, so that rounding errors don't
    /// add up.
    remainder: u128,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Departure {
    pub(super) at: Duration,
    /// Whether the packet found the queue more than half full.
    pub(super) congested: bool,
}

impl Bottleneck {
    /// Queues a packet at `now`; `None` if the queue is full. `rate` is in bit/s.
    pub(super) fn enqueue(
        &mut self,
        now: Duration,
        bytes: usize,
        rate: u64,
        queue: Duration,
    ) -> Option<Departure> {
        let wait = self.free_at.saturating_sub(now);
        if wait > queue {
            return None;
        }
        if wait.is_zero() {
            (self.free_at, self.remainder) = (now, 0);
        }
        let work = self.remainder + bytes as u128 * 8 * 1_000_000_000;
        self.remainder = work % u128::from(rate);
        self.free_at += nanos(work / u128::from(rate));
        Some(Departure { at: self.free_at, congested: wait > queue / 2 })
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_rate_is_exact_over_many_packets_that_take_fractions_of_a_nanosecond() {
        let mut link = Bottleneck::default();
        // 8,000 bits at 7 Gbit/s are 1142.857… ns.
        let last =
            (0..70_000).map(|_| link.enqueue(Duration::ZERO, 1000, 7_000_000_000, 1000 * MS));
        assert_eq!(last.last().unwrap().unwrap().at, 80 * MS);
    }

    #[test]
    fn the_queue_bounds_the_wait_and_reports_when_it_is_half_full() {
        let mut link = Bottleneck::default();
        // 1,250 bytes at 10 Mbit/s are 1 ms.
        let mut enqueue = |now: Duration| link.enqueue(now, 1250, 10_000_000, 4 * MS);
        let queued: Vec<_> = (0..6).map(|_| enqueue(Duration::ZERO)).collect();
        let departure = |ms, congested| Some(Departure { at: ms * MS, congested });
        let expected = [
            departure(1, false),
            departure(2, false),
            departure(3, false),
            departure(4, true),
            departure(5, true),
            None,
        ];
        assert_eq!(queued, expected);
        assert_eq!(enqueue(10 * MS), departure(11, false));
    }
}

use std::fmt;

use serde::{Deserialize, Serialize};

/// What became of the packets of one direction since its conditions were set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WanCounters {
    /// Packets that came, and their bytes.
    pub offered: u64,
    /// Bytes of `offered`.
    pub offered_bytes: u64,
    /// Lost at random, as asked for.
    pub lost: u64,
    /// Dropped since the bottleneck's queue was full.
    pub queue_full: u64,
    /// Dropped for their size.
    pub too_large: u64,
    /// Dropped since the emulator held too much: it is no queue that anybody asked for.
    pub overflowed: u64,
    /// Sent on twice.
    pub duplicated: u64,
    /// Sent on late.
    pub reordered: u64,
    /// Marked CE.
    pub marked: u64,
    /// Packets sent on, copies included.
    pub delivered: u64,
    /// Bytes of `delivered`.
    pub delivered_bytes: u64,
    /// Packets and super-packets that the kernel didn't take back, or that were no IP.
    pub failed: u64,
}

impl fmt::Display for WanCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let share = |part: u64| 100.0 * part as f64 / self.offered.max(1) as f64;
        write!(f, "offered {}, delivered {}", self.offered, self.delivered)?;
        for (name, count) in [
            ("lost", self.lost),
            ("queue full", self.queue_full),
            ("too large", self.too_large),
            ("overflowed", self.overflowed),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("marked", self.marked),
            ("failed", self.failed),
        ] {
            if count > 0 {
                write!(f, ", {name} {count} ({:.2}%)", share(count))?;
            }
        }
        Ok(())
    }
}

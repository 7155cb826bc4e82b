use std::fmt;

use serde::{Deserialize, Serialize};

/// Packets of one direction since its conditions were set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WanCounters {
    /// Packets that arrived at the emulator.
    pub offered: u64,
    pub offered_bytes: u64,
    /// Dropped by random loss.
    pub lost: u64,
    /// Dropped because the bottleneck's queue was full.
    pub queue_full: u64,
    /// Dropped because of the MTU.
    pub too_large: u64,
    /// Dropped because the emulator's memory limit was reached.
    pub overflowed: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered late, out of order.
    pub reordered: u64,
    /// Marked CE.
    pub marked: u64,
    /// Packets delivered, duplicates included.
    pub delivered: u64,
    pub delivered_bytes: u64,
    /// Packets and super-packets that the TUN device refused, or that were not IP.
    pub failed: u64,
}

impl fmt::Display for WanCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "printed with two decimals")]
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

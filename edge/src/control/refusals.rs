//! Refused certificates in the log: who was claimed, and why not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cframe_pki::verifier::Observer;
use tracing::warn;

/// One reason is logged this often at most: anybody can cause refusals.
const EVERY: Duration = Duration::from_secs(5);

/// Logs what a verifier refuses. Each reason is rationed by itself, so that a flood of one hides no
/// other.
pub(super) fn log() -> Observer {
    let rations: Mutex<BTreeMap<&'static str, Ration>> = Mutex::default();
    Arc::new(move |refusal, claimed| {
        let mut rations = rations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = rations.entry(refusal.label()).or_default().take(Instant::now()) {
            let claimed = claimed.map(tracing::field::display);
            warn!(claimed, reason = %refusal, count, "certificate refused");
        }
    })
}

#[derive(Debug, Default)]
struct Ration {
    told: Option<Instant>,
    refusals: u64,
}

impl Ration {
    /// How many there were since the last that was told, if this one may be.
    fn take(&mut self, now: Instant) -> Option<u64> {
        self.refusals += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.refusals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_at_once_and_then_with_the_count_of_those_in_between() {
        let (mut ration, start) = (Ration::default(), Instant::now());
        assert_eq!(ration.take(start), Some(1));
        assert_eq!(ration.take(start + EVERY / 2), None);
        assert_eq!(ration.take(start + EVERY / 2), None);
        assert_eq!(ration.take(start + EVERY), Some(3));
    }
}

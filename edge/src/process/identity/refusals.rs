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

/// What our verifiers have refused, by reason. Each reason is rationed by itself in the log, so that a
/// flood of one hides no other.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<BTreeMap<&'static str, Ration>>>);

impl Refusals {
    /// Logs and counts what a verifier refuses.
    pub(super) fn observer(&self) -> Observer {
        let rations = Arc::clone(&self.0);
        Arc::new(move |refusal, claimed| {
            let mut rations = rations.lock().unwrap_or_else(PoisonError::into_inner);
            let ration = rations.entry(refusal.label()).or_default();
            if let Some(count) = ration.take(Instant::now()) {
                let claimed = claimed.map(tracing::field::display);
                warn!(claimed, reason = %refusal, count, "certificate refused");
            }
        })
    }

    /// How many there were, as `certificate_<reason>`.
    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        let rations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count =
            |(label, ration): (&&str, &Ration)| (format!("certificate_{label}"), ration.all);
        rations.iter().map(count).collect()
    }
}

#[derive(Debug, Default)]
struct Ration {
    told: Option<Instant>,
    refusals: u64,
    all: u64,
}

impl Ration {
    /// How many there were since the last that was told, if this one may be.
    fn take(&mut self, now: Instant) -> Option<u64> {
        self.refusals += 1;
        self.all += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.refusals))
    }
}

#[cfg(test)]
mod tests {
    use cframe_pki::verifier::Refusal;

    use super::*;

    #[test]
    fn what_verifiers_refuse_is_counted_by_reason() {
        let refusals = Refusals::default();
        let (links, sessions) = (refusals.observer(), refusals.observer());
        links(&Refusal::Denied, None);
        links(&Refusal::Denied, None);
        sessions(&Refusal::WrongMesh, None);
        let counts = refusals.counts();
        assert_eq!(
            counts,
            [("certificate_denied".to_owned(), 2), ("certificate_wrong_mesh".to_owned(), 1)]
        );
    }

    #[test]
    fn a_reason_is_told_at_once_and_then_with_the_count_of_those_in_between() {
        let (mut ration, start) = (Ration::default(), Instant::now());
        assert_eq!(ration.take(start), Some(1));
        assert_eq!(ration.take(start + EVERY / 2), None);
        assert_eq!(ration.take(start + EVERY / 2), None);
        assert_eq!(ration.take(start + EVERY), Some(3));
    }
}

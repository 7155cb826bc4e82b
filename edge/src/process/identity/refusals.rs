//! Certificates that this edge has refused, in the log and in the status.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use cframe_pki::verifier::Observer;
use tracing::warn;

use crate::process::log_limit::LogLimit;

/// Counts refusals by reason. Each reason has its own limit in the log, so that a flood of one hides
/// no other.
#[derive(Clone, Debug, Default)]
pub(in crate::process) struct Refusals(Arc<Mutex<BTreeMap<&'static str, Count>>>);

#[derive(Debug, Default)]
struct Count {
    limit: LogLimit,
    total: u64,
}

impl Refusals {
    /// For a verifier: logs and counts what that refuses.
    pub(in crate::process) fn observer(&self) -> Observer {
        let counts = Arc::clone(&self.0);
        Arc::new(move |refusal, claimed| {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let reason = counts.entry(refusal.label()).or_default();
            reason.total += 1;
            if let Some(count) = reason.limit.record(Instant::now()) {
                let claimed = claimed.map(tracing::field::display);
                warn!(claimed, reason = %refusal, count, "certificate refused");
            }
        })
    }

    /// By `certificate_<reason>`.
    pub(in crate::process) fn counts(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named =
            counts.iter().map(|(label, count)| (format!("certificate_{label}"), count.total));
        named.collect()
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
}

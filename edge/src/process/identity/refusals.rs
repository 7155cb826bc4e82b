//! Certificates that this edge has refused, in the log and in the status.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cframe_pki::verifier::{Observer, Refusal};
use tracing::warn;

use crate::{judge::own::Skew, process::log_limit::LogLimit};

/// A controller is dialled again sooner than this.
const SKEW_LIFETIME: Duration = Duration::from_secs(60);

/// Counts refusals by reason. Each reason has its own limit in the log, so that a flood of one hides
/// no other.
#[derive(Clone, Debug, Default)]
pub(in crate::process) struct Refusals(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<&'static str, Count>,
    /// When a controller's certificate was last refused for its times, and by how much.
    controller_time: Option<(Instant, Skew)>,
}

#[derive(Debug, Default)]
struct Count {
    limit: LogLimit,
    total: u64,
}

impl Refusals {
    /// For a verifier: logs and counts what that refuses.
    pub(in crate::process) fn observer(&self) -> Observer {
        self.observe(false)
    }

    /// For the verifier of controllers, whose certificates are always fresh: one that has expired, or is
    /// not valid yet, shows that a clock is wrong.
    pub(in crate::process) fn controllers_observer(&self) -> Observer {
        self.observe(true)
    }

    fn observe(&self, controllers: bool) -> Observer {
        let state = Arc::clone(&self.0);
        Arc::new(move |refusal, claimed| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(skew) = skew(refusal).filter(|_| controllers) {
                state.controller_time = Some((Instant::now(), skew));
            }
            let reason = state.counts.entry(refusal.label()).or_default();
            reason.total += 1;
            if let Some(count) = reason.limit.record(Instant::now()) {
                let claimed = claimed.map(tracing::field::display);
                warn!(claimed, reason = %refusal, count, "certificate refused");
            }
        })
    }

    /// How far this clock is from the times of a controller's certificate, if one was refused for them
    /// within the last minute.
    pub(in crate::process) fn clock_skew(&self) -> Option<Skew> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, skew) = state.controller_time.as_ref()?;
        (at.elapsed() <= SKEW_LIFETIME).then_some(*skew)
    }

    /// By `certificate_<reason>`.
    pub(in crate::process) fn counts(&self) -> Vec<(String, u64)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named =
            state.counts.iter().map(|(label, count)| (format!("certificate_{label}"), count.total));
        named.collect()
    }
}

/// How far this clock is from the times of the certificate that was refused, if it was for them.
fn skew(refusal: &Refusal) -> Option<Skew> {
    if let Refusal::Expired { not_after, now } = refusal {
        return Some(Skew::Ahead(now.saturating_sub(*not_after)));
    }
    if let Refusal::NotYetValid { not_before, now } = refusal {
        return Some(Skew::Behind(not_before.saturating_sub(*now)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controllers_certificate_that_has_expired_shows_how_far_the_clock_is_ahead() {
        let refusals = Refusals::default();
        refusals.observer()(&Refusal::Expired { not_after: 100, now: 400 }, None);
        assert_eq!(refusals.clock_skew(), None, "a peer's may be old");
        refusals.controllers_observer()(&Refusal::Expired { not_after: 100, now: 400 }, None);
        assert_eq!(refusals.clock_skew(), Some(Skew::Ahead(300)));
        let early = Refusal::NotYetValid { not_before: 100, now: 40 };
        refusals.controllers_observer()(&early, None);
        assert_eq!(refusals.clock_skew(), Some(Skew::Behind(60)));
    }

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

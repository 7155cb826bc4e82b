//! Keeps the metrics of what expires, and logs once a day what expires soon.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    model::expiry::{Expiry, KINDS, all},
};

const CHECK_INTERVAL: Duration = Duration::from_secs(60);
const LOG_INTERVAL: Duration = Duration::from_secs(86_400);
/// Log lines of one kind at a time.
const MAX_LOGGED: usize = 10;

pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    let mut logged: BTreeMap<&'static str, Instant> = BTreeMap::new();
    loop {
        let replica = &context.replica;
        let now = replica.now();
        let found = replica.read(|state| all(state, now));
        for kind in KINDS {
            let of: Vec<&Expiry> = found.iter().filter(|expiry| expiry.kind == kind).collect();
            let first = of.iter().map(|expiry| expiry.not_after).min();
            let soon: Vec<&&Expiry> = of.iter().filter(|expiry| expiry.is_soon(now)).collect();
            replica.metrics.gauges.expiry(
                kind,
                first.map(|first| seconds_left(first, now)),
                soon.len(),
            );
            if soon.is_empty() {
                logged.remove(kind);
            } else if logged.get(kind).is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                logged.insert(kind, Instant::now());
                for expiry in soon.iter().take(MAX_LOGGED) {
                    tracing::warn!(kind, "{}", expiry.sentence(now));
                }
                if soon.len() > MAX_LOGGED {
                    tracing::warn!(
                        kind,
                        more = soon.len() - MAX_LOGGED,
                        "and more of the kind expire soon"
                    );
                }
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_none() {
            return;
        }
    }
}

fn seconds_left(until: u64, now: u64) -> i64 {
    let seconds = |time| i64::try_from(time).unwrap_or(i64::MAX);
    seconds(until).saturating_sub(seconds(now))
}

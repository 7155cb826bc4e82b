//! Deleting what has expired: tokens, certificates, issuing CAs and denials.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::bundle::DenyEntry;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::JumpDetector,
    context::Context,
    decide::{call::Lane, draft::Draft},
    model::{State, record::Key},
};

const SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// Seconds for which an expired certificate is still listed.
const KEEP_EXPIRED: u64 = 30 * 86_400;
/// Seconds for which a denial outlives its certificate, for edges whose clock is behind.
const KEEP_DENIED: u64 = 3_600;
/// Deletions in one transaction. A denial takes two of the effects and comparisons that a store allows in one.
const MAX_BATCH: usize = 50;

/// Runs until stopped.
pub(crate) async fn sweep(context: Arc<Context>, stop: CancellationToken) {
    let replica = &context.replica;
    let mut jumps = JumpDetector::new(replica.now(), Instant::now());
    loop {
        let now = replica.now();
        let mut pause = SWEEP_INTERVAL;
        if jumps.is_trusted(now, Instant::now()) {
            let decide = |state: &State| Ok((expired(state, now), ()));
            match replica.write_unrecorded(&Lane::Mesh, decide).await {
                Ok(_) if replica.read(|state| !expired(state, now).is_empty()) => {
                    pause = Duration::from_secs(1);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "expired records were not deleted"),
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// The next batch of deletions.
pub(crate) fn expired(state: &State, now: u64) -> Draft {
    let mut draft = Draft::default();
    let mut left = MAX_BATCH;
    let tokens = state.tokens.iter().filter(|(_, token)| token.record.expires <= now);
    for (id, token) in tokens.take(left) {
        left -= 1;
        draft.delete(Key::Token(*id), token.modified);
    }
    let is_old = |not_after: u64| not_after.saturating_add(KEEP_EXPIRED) <= now;
    let certs = state.certs.iter().filter(|(_, cert)| is_old(cert.record.not_after));
    for (serial, cert) in certs.take(left) {
        left -= 1;
        draft.delete(Key::Cert(*serial), cert.modified);
    }
    let issuers = state.issuers.iter().filter(|(_, issuer)| is_old(issuer.record.not_after));
    for (spki, issuer) in issuers.take(MAX_BATCH) {
        draft.delete(Key::Issuer(*spki), issuer.modified);
    }
    let is_over = |entry: &DenyEntry| entry.expires.saturating_add(KEEP_DENIED) <= now;
    let denied = state.denied.iter().filter(|(_, denied)| is_over(&denied.record.entry));
    // Each may also write its namespace's record.
    for (serial, denied) in denied.take(left / 2) {
        draft.delete(Key::Denied(*serial), denied.modified);
        draft.bump_for(state, &denied.record.entry.id.role);
    }
    draft
}

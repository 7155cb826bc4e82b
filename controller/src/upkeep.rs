//! What a controller does by itself: renewing its own certificate, and clearing away what has expired.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cframe_pki::{
    bundle::DenyEntry,
    renewal::{renew_at, retry_at},
    tls::Credentials,
};
use tokio_util::sync::CancellationToken;

use crate::{draft::Draft, issuing, model::State, record::Key, server::Context};

/// How often the clock is looked at. Short, because a clock can be set.
const LOOK: Duration = Duration::from_secs(60);
/// How often what has expired is cleared away.
const SWEEP: Duration = Duration::from_secs(600);
/// How long an expired certificate can still be looked at.
const KEEP_EXPIRED: u64 = 30 * 86_400;
/// How long a denial outlives its certificate, for clocks that are behind.
const KEEP_DENIED: u64 = 3_600;
/// What one sweep clears away at most, so that it is no burden to anybody.
const AT_ONCE: usize = 100;

/// Keeps the controller's certificate fresh until stopped.
pub(crate) async fn renew_own(
    context: Arc<Context>,
    directory: Option<PathBuf>,
    stop: CancellationToken,
) {
    let seed: u64 = rand::random();
    let mut retry = 0;
    loop {
        let identity = context.credentials.identity();
        let now = context.mesh.now();
        set_gauges(&context, identity.not_after, now);
        if now >= renew_at(identity.not_before, identity.not_after, seed).max(retry) {
            retry = match renew(&context, directory.as_ref()).await {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(%error, "the controller's certificate was not renewed");
                    retry_at(now, seed)
                }
            };
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

async fn renew(context: &Context, directory: Option<&PathBuf>) -> anyhow::Result<()> {
    let credentials =
        issuing::renew_own(&context.mesh, &context.issuer, &context.credentials).await?;
    if let Some(directory) = directory.cloned() {
        let save = move || Credentials::save(&credentials, &directory);
        tokio::task::spawn_blocking(save).await??;
    }
    tracing::info!("the controller's certificate was renewed");
    Ok(())
}

fn set_gauges(context: &Context, not_after: u64, now: u64) {
    let left = |until: u64| {
        i64::try_from(until).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now).unwrap_or(0))
    };
    context.mesh.metrics.certificate_seconds.set(left(not_after));
    context.mesh.metrics.issuer_seconds.set(left(context.issuer.ca().not_after()));
}

/// Clears away expired tokens, certificates and denials until stopped.
pub(crate) async fn sweep(context: Arc<Context>, stop: CancellationToken) {
    loop {
        let now = context.mesh.now();
        let swept = context.mesh.write("", |state| Ok((expired(state, now), ()))).await;
        if let Err(error) = &swept {
            tracing::warn!(%error, "what has expired was not cleared away");
        }
        let more = swept.is_ok() && context.mesh.read(|state| !expired(state, now).is_empty());
        let pause = if more { Duration::from_secs(1) } else { SWEEP };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// The decision: what can go.
pub(crate) fn expired(state: &State, now: u64) -> Draft {
    let mut draft = Draft::default();
    let tokens = state.tokens.iter().filter(|(_, token)| token.record.expires <= now);
    for (id, token) in tokens.take(AT_ONCE) {
        draft.compare(Key::Token(*id), token.modified);
        draft.delete(Key::Token(*id));
    }
    let certs = state
        .certs
        .iter()
        .filter(|(_, cert)| cert.record.not_after.saturating_add(KEEP_EXPIRED) <= now);
    for (serial, cert) in certs.take(AT_ONCE) {
        draft.compare(Key::Cert(*serial), cert.modified);
        draft.delete(Key::Cert(*serial));
    }
    let over = |entry: &DenyEntry| entry.expires.saturating_add(KEEP_DENIED) <= now;
    let denied = state.denied.iter().filter(|(_, denied)| over(&denied.record.entry));
    for (serial, denied) in denied.take(AT_ONCE) {
        draft.compare(Key::Denied(*serial), denied.modified);
        draft.delete(Key::Denied(*serial));
        draft.concern(state, &denied.record.entry.id.role);
    }
    draft
}

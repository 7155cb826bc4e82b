//! What a controller does by itself: renewing its own certificate, keeping its registration true, and clearing
//! away what has expired.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::{
    bundle::DenyEntry,
    identity::PeerIdentity,
    renewal::{renew_at, retry_at},
    tls::Credentials,
};
use cframe_protocol::v1::CallError;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Act, Who},
    draft::Draft,
    issuing::{self, RenewError},
    model::State,
    record::Key,
    registration, rotation,
    server::Context,
};

/// How often the clock is looked at. Short, because a clock can be set.
const LOOK: Duration = Duration::from_secs(60);
/// How often what has expired is cleared away.
const SWEEP: Duration = Duration::from_secs(600);
/// How long an expired certificate can still be looked at.
const KEEP_EXPIRED: u64 = 30 * 86_400;
/// How long a denial outlives its certificate, for clocks that are behind.
const KEEP_DENIED: u64 = 3_600;
/// How long a clock is watched before it is believed, after a start and after it was set.
const STEADY: Duration = Duration::from_secs(3_600);
/// By how many seconds a clock may be corrected and still be the same.
const SLACK: u64 = 300;
/// What one sweep clears away at most, so that it is no burden to anybody and one transaction of every store: a
/// denial takes two of its effects and comparisons.
const AT_ONCE: usize = 50;

/// Keeps the controller's certificate fresh, and known which CA signs, until stopped.
pub(crate) async fn renew_own(context: Arc<Context>, stop: CancellationToken) {
    let seed: u64 = rand::random();
    // By the monotonic clock: a failure under a wrong clock must not put it off for years.
    let mut retry = Instant::now();
    loop {
        if let Err(error) = announce(&context).await {
            tracing::warn!(%error, "the issuing CA was not recorded");
        }
        let identity = context.credentials.identity();
        let now = context.mesh.now();
        set_gauges(&context, identity.not_after, now);
        if Instant::now() >= retry
            && due(&context, &identity, now, seed)
            && let Err(error) = renew(&context).await
        {
            tracing::error!(%error, "the controller's certificate was not renewed");
            retry = Instant::now() + Duration::from_secs(retry_at(0, seed));
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

/// Has the store know which CA this controller signs with, and its certificate, which a restored one may not.
async fn announce(context: &Context) -> Result<(), CallError> {
    let _turn = context.renewing.lock().await;
    let (mesh, issuer, name) = (&context.mesh, context.issuer.current(), context.name());
    let own = context.credentials.identity();
    let decide = |state: &State| {
        let mut draft = Draft::default();
        // Who was removed says nothing more.
        if state.is_controller(&name) {
            issuing::announce(&mut draft, state, &issuer, &name, mesh.now());
            if own.not_after > mesh.now() {
                issuing::adopt(&mut draft, state, &own);
            }
        }
        Ok((draft, ()))
    };
    if mesh.read(|state| decide(state).map(|(draft, ())| draft.is_empty()))? {
        return Ok(());
    }
    let mut act = Act::new(Who::Controller(name.clone()), "issuer");
    act.subject = issuer.ca().spki_sha256().to_string();
    mesh.write(name.as_str(), &act, decide).await.map(drop)
}

/// When it is time, or the certificate is by another CA than the one that signs: the controller was stopped
/// while it changed that.
fn due(context: &Context, own: &PeerIdentity, now: u64, seed: u64) -> bool {
    let issuer = context.issuer.current().ca().spki_sha256();
    is_time(own.not_before, own.not_after, now, seed) || own.issuer != Some(issuer)
}

/// Also when it is not valid yet: it was made while the clock was ahead.
fn is_time(not_before: u64, not_after: u64, now: u64, seed: u64) -> bool {
    now < not_before || now >= renew_at(not_before, not_after, seed)
}

async fn renew(context: &Context) -> anyhow::Result<()> {
    let _turn = context.renewing.lock().await;
    let (issuer, id) = (context.issuer.current(), context.credentials.identity().id.clone());
    let mut act = Act::new(Who::holder(&id.role), "renewal");
    act.subject = act.who.to_string();
    let made = issuing::certify_own(&context.mesh, &issuer, &id, &act).await;
    if let Err(RenewError::Call(error)) = &made {
        context.mesh.settle(&act, Some(error));
    }
    let credentials = made?;
    context.credentials.replace(credentials.clone())?;
    if let Some(directory) = context.credentials_dir.clone() {
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
    let metrics = &context.mesh.metrics;
    metrics.certificate_seconds.set(left(not_after));
    metrics.issuer_seconds.set(left(context.issuer.current().ca().not_after()));
}

/// Has the store know of this controller and of all its CAs, also if it is from before there were registrations;
/// tries until it takes it.
pub(crate) async fn register(context: Arc<Context>, stop: CancellationToken) {
    let known = async || {
        registration::take_over(&context).await?;
        rotation::keep_all(&context).await
    };
    while let Err(error) = known().await {
        tracing::warn!(%error, "this controller's registration or its CAs were not written");
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

/// Clears away expired tokens, certificates and denials until stopped.
pub(crate) async fn sweep(context: Arc<Context>, stop: CancellationToken) {
    let mut steady = Steady::new(context.mesh.now(), Instant::now());
    loop {
        let now = context.mesh.now();
        if !steady.holds(now, Instant::now()) {
            if stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_none() {
                return;
            }
            continue;
        }
        let swept = context.mesh.write_unrecorded("", |state| Ok((expired(state, now), ()))).await;
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

/// Whether the clock can be believed: it goes with the monotonic one, and has for a while. A clock that is
/// years ahead for a minute would have every denial cleared away, for good.
#[derive(Debug)]
pub(crate) struct Steady {
    wall: u64,
    since: Instant,
}

impl Steady {
    pub(crate) fn new(wall: u64, since: Instant) -> Self {
        Self { wall, since }
    }

    pub(crate) fn holds(&mut self, wall: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if wall.abs_diff(self.wall.saturating_add(passed.as_secs())) > SLACK {
            *self = Self::new(wall, now);
            return false;
        }
        passed >= STEADY
    }
}

/// The decision: what can go.
pub(crate) fn expired(state: &State, now: u64) -> Draft {
    let mut draft = Draft::default();
    let mut left = AT_ONCE;
    let tokens = state.tokens.iter().filter(|(_, token)| token.record.expires <= now);
    for (id, token) in tokens.take(left) {
        left -= 1;
        draft.remove(Key::Token(*id), token.modified);
    }
    let certs = state
        .certs
        .iter()
        .filter(|(_, cert)| cert.record.not_after.saturating_add(KEEP_EXPIRED) <= now);
    for (serial, cert) in certs.take(left) {
        left -= 1;
        draft.remove(Key::Cert(*serial), cert.modified);
    }
    let issuers = state
        .issuers
        .iter()
        .filter(|(_, issuer)| issuer.record.not_after.saturating_add(KEEP_EXPIRED) <= now);
    for (spki, issuer) in issuers.take(AT_ONCE) {
        draft.remove(Key::Issuer(*spki), issuer.modified);
    }
    let over = |entry: &DenyEntry| entry.expires.saturating_add(KEEP_DENIED) <= now;
    let denied = state.denied.iter().filter(|(_, denied)| over(&denied.record.entry));
    // Each may count its namespace's revision up.
    for (serial, denied) in denied.take(left / 2) {
        draft.remove(Key::Denied(*serial), denied.modified);
        draft.concern(state, &denied.record.entry.id.role);
    }
    draft
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_clock_is_believed_after_an_hour_without_a_jump() {
        let begun = Instant::now();
        let at = |minutes: u64| begun + Duration::from_secs(60 * minutes);
        let mut steady = Steady::new(1_000_000, begun);
        assert!(!steady.holds(1_000_000, begun));
        assert!(!steady.holds(1_000_000 + 59 * 60, at(59)));
        assert!(steady.holds(1_000_000 + 61 * 60, at(61)));
        let ahead = 1_000_000 + 10 * 365 * DAY;
        assert!(!steady.holds(ahead + 70 * 60, at(70)), "it was set");
        assert!(!steady.holds(1_000_000 + 80 * 60, at(80)), "and set back");
        assert!(steady.holds(1_000_000 + 141 * 60, at(141)));
    }

    #[test]
    fn a_certificate_from_a_clock_that_was_ahead_is_renewed() {
        let (from, until) = (100 * DAY, 130 * DAY);
        assert!(is_time(from, until, 90 * DAY, 1), "not valid yet");
        assert!(!is_time(from, until, 101 * DAY, 1));
        assert!(is_time(from, until, 120 * DAY, 1));
    }
}

//! Renewing the controller's own certificate, and recording which CA signs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::{
    identity::{PeerIdentity, SpiffeId},
    key::PrivateKey,
    renewal::{renew_at, retry_at},
    tls::Credentials,
};
use cframe_protocol::v1::{CallError, ErrorCode};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Act, Who},
    context::Context,
    decide::{call::Lane, draft::Draft, issuing, registration},
    keys::issuer::{Issuer, verify_csr},
    mesh::Replica,
    model::State,
};

/// Short, because the clock can be set.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Renews the controller's certificate in time, until stopped.
pub(crate) async fn renew_own(context: Arc<Context>, stop: CancellationToken) {
    let seed: u64 = rand::random();
    // By the monotonic clock: a failure while the wall clock is wrong must not delay the next attempt for years.
    let mut retry = Instant::now();
    loop {
        if let Err(error) = record_issuer(&context).await {
            tracing::warn!(%error, "the issuing CA was not recorded");
        }
        let identity = context.credentials.identity();
        let now = context.replica.now();
        set_gauges(&context, identity.not_after, now);
        if Instant::now() >= retry
            && is_due(&context, &identity, now, seed)
            && let Err(error) = renew(&context).await
        {
            tracing::error!(%error, "the controller's certificate was not renewed");
            retry = Instant::now() + Duration::from_secs(retry_at(0, seed));
        }
        if stop.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Records the CA that this controller signs with, and its certificate: a restored store may lack both.
async fn record_issuer(context: &Context) -> Result<(), CallError> {
    let _turn = context.renewing.lock().await;
    let (replica, issuer, name) = (&context.replica, context.issuer.current(), context.name());
    let own = context.credentials.identity();
    let decide = |state: &State| {
        let mut draft = Draft::default();
        // A controller that was removed records nothing more.
        if state.is_controller(&name) {
            issuing::record_issuer(&mut draft, state, &issuer, &name, replica.now());
            if own.not_after > replica.now() {
                issuing::record_known_cert(&mut draft, state, &own);
            }
        }
        Ok((draft, ()))
    };
    if replica.read(|state| decide(state).map(|(draft, ())| draft.is_empty()))? {
        return Ok(());
    }
    let mut act = Act::new(Who::Controller(name.clone()), "issuer");
    act.subject = issuer.ca().spki_sha256().to_string();
    replica.write(&Lane::Controller(name.clone()), &act, decide).await.map(drop)
}

/// Also if another CA than the one in use issued it: the controller was stopped while it changed the CA.
fn is_due(context: &Context, own: &PeerIdentity, now: u64, seed: u64) -> bool {
    let issuer = context.issuer.current().ca().spki_sha256();
    is_time(own.not_before, own.not_after, now, seed) || own.issuer != Some(issuer)
}

/// Also if it is not valid yet: it was issued while the clock was ahead.
fn is_time(not_before: u64, not_after: u64, now: u64, seed: u64) -> bool {
    now < not_before || now >= renew_at(not_before, not_after, seed)
}

async fn renew(context: &Context) -> anyhow::Result<()> {
    let _turn = context.renewing.lock().await;
    let (issuer, id) = (context.issuer.current(), context.credentials.identity().id.clone());
    let mut act = Act::new(Who::holder(&id.role), "renewal");
    act.subject = act.who.to_string();
    let issued = issue_own(&context.replica, &issuer, &id, &act).await;
    if let Err(RenewError::Call(error)) = &issued {
        context.replica.record_outcome(&act, Some(error));
    }
    let credentials = issued?;
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
    let gauges = &context.replica.metrics.gauges;
    gauges.certificate_seconds.set(left(not_after));
    gauges.issuer_seconds.set(left(context.issuer.current().ca().not_after()));
}

/// Why the controller's own certificate was not renewed.
#[derive(Debug, Error)]
pub(crate) enum RenewError {
    #[error(transparent)]
    Key(#[from] cframe_pki::key::KeyError),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Issues a certificate for the controller itself, with a new key. In one transaction, records the certificate, that
/// this CA signs from now on, and the act. Returns the new credentials, which are not in use yet.
pub(crate) async fn issue_own(
    replica: &Replica,
    issuer: &Issuer,
    id: &SpiffeId,
    act: &Act,
) -> Result<Credentials, RenewError> {
    let key = PrivateKey::generate()?;
    let csr = verify_csr(&key.csr()?)?;
    let name = id.role.name();
    let lane = Lane::Controller(name.clone());
    let written = replica.write(&lane, act, |state| {
        let mut draft = Draft::default();
        if !state.is_controller(name) {
            let message = format!("controller {name} was removed from the mesh");
            return Err(CallError::new(ErrorCode::NotAllowed, message));
        }
        let issued = issuer.issue(state, &csr, id, replica.now())?;
        draft.put_cert(&issued);
        issuing::record_issuer(&mut draft, state, issuer, name, replica.now());
        registration::guard(&mut draft, state, name);
        Ok((draft, issued))
    });
    let (_, issued) = written.await?;
    Ok(Credentials { chain: issuer.chain(&issued.certificate), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_certificate_from_a_clock_that_was_ahead_is_renewed() {
        let (from, until) = (100 * DAY, 130 * DAY);
        assert!(is_time(from, until, 90 * DAY, 1), "not valid yet");
        assert!(!is_time(from, until, 101 * DAY, 1));
        assert!(is_time(from, until, 120 * DAY, 1));
    }
}

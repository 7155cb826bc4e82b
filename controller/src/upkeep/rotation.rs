//! Signing with another issuing CA, without a restart.
//!
//! First the record that this CA signs is written, with a certificate of the controller's own under it. Then the disk
//! says which CA signs, then it has the credentials, then both are in use. After a crash in between, the controller's
//! own certificate is by another of its CAs, and it renews that certificate when it starts.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use cframe_pki::{Fingerprint, tls::Credentials};

use super::certificate::issue_own;
use crate::{
    audit::{Act, Who},
    context::Context,
    decide::{call::Lane, draft::Draft, names::list_lacking, registration},
    keys::issuer::Issuer,
    model::{
        State,
        record::{IssuerRecord, Key},
        trust::{edges_lacking_roots, roots},
    },
    peers,
    sessions::all::{AllSessions, SessionFilter},
};

/// Has the controller sign with the issuing CA of this fingerprint, which must be in its directory. With `force`,
/// also if edges lack the root above it. The act is recorded with the change. Returns warnings, a sentence each.
pub(crate) async fn sign_with(
    context: &Arc<Context>,
    fingerprint: Fingerprint,
    force: bool,
    act: &Act,
) -> Result<Vec<String>> {
    let authorities = context.authorities.clone();
    let authorities = authorities.context("this controller has no issuing CAs on disk")?;
    let _turn = context.renewing.lock().await;
    let issuer = {
        let authorities = authorities.clone();
        tokio::task::spawn_blocking(move || authorities.load(fingerprint)).await??
    };
    let replica = &context.replica;
    let now = replica.now();
    record_issuer(context, &issuer).await?;
    let sessions = peers::all_sessions(context, SessionFilter::BRIEF).await;
    let warnings = replica.read(|state| check(state, &sessions, &issuer, now))?;
    if !warnings.is_empty() && !force {
        bail!(
            "{}; wait (`cfctl ca status --wait`), or do it anyway with --force",
            warnings.join("; ")
        );
    }
    let id = context.credentials.identity().id.clone();
    let credentials = issue_own(replica, &issuer, &id, act).await?;
    let (saved, directory) = (credentials.clone(), context.credentials_dir.clone());
    tokio::task::spawn_blocking(move || {
        authorities.select(fingerprint)?;
        if let Some(directory) = directory {
            Credentials::save(&saved, &directory)?;
        }
        anyhow::Ok(())
    })
    .await??;
    let root = issuer.pin();
    context.issuer.replace(Arc::new(issuer));
    context.credentials.replace(credentials)?;
    tracing::info!(issuer = %fingerprint, %root, force, "signing with another issuing CA");
    Ok(warnings)
}

/// Records a CA whose key this host has, also if it is not in use: when the controller is removed, all its CAs are.
async fn record_issuer(context: &Context, issuer: &Issuer) -> Result<()> {
    let (replica, name, spki) = (&context.replica, context.name(), issuer.ca().spki_sha256());
    let decide = |state: &State| {
        let mut draft = Draft::default();
        let known = state.issuers.contains_key(&spki);
        if !known && *issuer.ca().mesh() == state.mesh.record.name && state.is_controller(&name) {
            let record = issuer.record(state, &name, replica.now());
            draft.compare(Key::Issuer(spki), 0);
            draft.put(Key::Issuer(spki), &IssuerRecord { signs: false, ..record });
            // A concurrent removal of the controller, with its CAs, must take this one into account.
            registration::guard(&mut draft, state, &name);
        }
        Ok((draft, ()))
    };
    let mut act = Act::new(Who::Controller(name.clone()), "issuer");
    act.subject = spki.to_string();
    replica.write(&Lane::Controller(name.clone()), &act, decide).await?;
    Ok(())
}

/// Records all unexpired CAs on disk: a `ca renew` may have crashed after it had written one. If one cannot be read,
/// that is logged and nothing is recorded.
pub(crate) async fn record_all_issuers(context: &Context) -> Result<()> {
    let Some(authorities) = context.authorities.clone() else { return Ok(()) };
    let all = match tokio::task::spawn_blocking(move || authorities.list()).await? {
        Ok(all) => all,
        Err(error) => {
            tracing::warn!(%error, "not all issuing CAs of this controller can be read");
            return Ok(());
        }
    };
    let (now, _turn) = (context.replica.now(), context.renewing.lock().await);
    let current = context.issuer.current().ca().spki_sha256();
    // The one in use is recorded by the task that renews the certificate.
    for issuer in all.iter().filter(|issuer| issuer.ca().spki_sha256() != current) {
        if issuer.ca().not_after() > now {
            record_issuer(context, issuer).await?;
        }
    }
    Ok(())
}

/// Whether the issuing CA can be used. Returns warnings about the edges that would be cut off.
fn check(
    state: &State,
    sessions: &AllSessions<'_>,
    issuer: &Issuer,
    now: u64,
) -> Result<Vec<String>> {
    let mesh = &state.mesh.record;
    let (own, root) = (issuer.ca().spki_sha256(), issuer.pin());
    if *issuer.ca().mesh() != mesh.name {
        bail!("the issuing CA is of mesh {}, and this is mesh {}", issuer.ca().mesh(), mesh.name);
    }
    if !roots(state).iter().any(|known| known.spki == root) {
        return Err(anyhow!(
            "the root {root} above the issuing CA is not in the trust bundle, so everybody would refuse this \
             controller; add it first: `cfctl ca rotate add`"
        ));
    }
    if mesh.trust.revoked_issuers.contains(&own) {
        bail!("the issuing CA {own} was revoked; make a new one");
    }
    let (_, lacking) = edges_lacking_roots(state, sessions, &[root], now);
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "{} edges are not known to have the root {root}, and would refuse this controller and everyone that it \
         certifies: {}",
        lacking.len(),
        list_lacking(&lacking)
    )])
}

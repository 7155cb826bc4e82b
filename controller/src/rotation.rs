//! Signing with another issuing CA, without a restart.
//!
//! What is durable first: the record that this CA signs, with a certificate of the controller's own under it,
//! then which one signs, then the credentials, and then both are in force. A stop in between leaves a
//! controller whose own certificate is by another of its CAs, which it renews at its start.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use cframe_pki::{Fingerprint, tls::Credentials};

use crate::{
    audit::{Act, Who},
    calls::{
        BRIEF, Sightings,
        ca::{lacking, names, roots},
    },
    draft::Draft,
    issuing::{self, Issuer},
    model::State,
    record::{self, Key},
    registration,
    server::Context,
};

/// Has the controller sign with the issuing CA of this fingerprint, which lies in its directory. With `force`
/// also if edges lack the root above it. The act is recorded with the change. Answers with what to look at twice, a sentence each.
pub(crate) async fn sign_with(
    context: &Arc<Context>,
    fingerprint: Fingerprint,
    force: bool,
    act: &Act,
) -> Result<Vec<String>> {
    let authorities = context.authorities.clone();
    let authorities = authorities.context("this controller keeps no issuing CAs on disk")?;
    let _turn = context.renewing.lock().await;
    let issuer = {
        let authorities = authorities.clone();
        tokio::task::spawn_blocking(move || authorities.load(fingerprint)).await??
    };
    let mesh = &context.mesh;
    let now = mesh.now();
    keep(context, &issuer).await?;
    let sessions = Sightings::gather(context, BRIEF).await;
    let warnings = mesh.read(|state| check(state, &sessions, &issuer, now))?;
    if !warnings.is_empty() && !force {
        bail!(
            "{}; wait (`cfctl ca status --wait`), or do it all the same with --force",
            warnings.join("; ")
        );
    }
    let id = context.credentials.identity().id.clone();
    let credentials = issuing::certify_own(mesh, &issuer, &id, act).await?;
    let (kept, directory) = (credentials.clone(), context.credentials_dir.clone());
    tokio::task::spawn_blocking(move || {
        authorities.select(fingerprint)?;
        if let Some(directory) = directory {
            Credentials::save(&kept, &directory)?;
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

/// Has the store know a CA that this host has the key of, also if it is not used: it goes with the controller.
async fn keep(context: &Context, issuer: &Issuer) -> Result<()> {
    let (mesh, name, spki) = (&context.mesh, context.name(), issuer.ca().spki_sha256());
    let decide = |state: &State| {
        let mut draft = Draft::default();
        let known = state.issuers.contains_key(&spki);
        if !known && *issuer.ca().mesh() == state.mesh.record.name && state.is_controller(&name) {
            let record = issuer.record(state, &name, mesh.now());
            draft.compare(Key::Issuer(spki), 0);
            draft.put(Key::Issuer(spki), &record::Issuer { signs: false, ..record });
            // Whoever removes the controller, with its CAs, has to decide upon this one too.
            registration::rely_on(&mut draft, state, &name);
        }
        Ok((draft, ()))
    };
    let mut act = Act::new(Who::Controller(name.clone()), "issuer");
    act.subject = spki.to_string();
    mesh.write(name.as_str(), &act, decide).await?;
    Ok(())
}

/// The same of all on disk that are good for something: a `ca renew` may have died after it had written one. What
/// cannot be read is told of, and left.
pub(crate) async fn keep_all(context: &Context) -> Result<()> {
    let Some(authorities) = context.authorities.clone() else { return Ok(()) };
    let all = match tokio::task::spawn_blocking(move || authorities.list()).await? {
        Ok(all) => all,
        Err(error) => {
            tracing::warn!(%error, "not all issuing CAs of this controller can be read");
            return Ok(());
        }
    };
    let (now, _turn) = (context.mesh.now(), context.renewing.lock().await);
    let current = context.issuer.current().ca().spki_sha256();
    // The one in use is announced when it comes into use.
    for issuer in all.iter().filter(|issuer| issuer.ca().spki_sha256() != current) {
        if issuer.ca().not_after() > now {
            keep(context, issuer).await?;
        }
    }
    Ok(())
}

/// Whether the issuing CA can be used, and whom that cuts off.
fn check(
    state: &State,
    sessions: &Sightings<'_>,
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
            "the root {root} above the issuing CA is not in the trust bundle, so that everybody would refuse \
             this controller; add it first: `cfctl ca rotate add`"
        ));
    }
    if mesh.trust.revoked_issuers.contains(&own) {
        bail!("the issuing CA {own} was revoked; make a new one");
    }
    let (_, lacking) = lacking(state, sessions, &[root], now);
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "{} edges are not known to have the root {root}, and would refuse this controller and whoever it \
         certifies: {}",
        lacking.len(),
        names(&lacking)
    )])
}

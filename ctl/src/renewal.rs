//! The admin's own certificate: whoever uses a context keeps it valid.

use std::path::Path;

use anyhow::Context as _;
use cframe_pki::{
    CertificateDer,
    bundle::TrustBundle,
    identity::{PeerIdentity, Role},
    key::PrivateKey,
};
use cframe_protocol::v1::{AdminEnrolled, Call};

use crate::{
    context::{Context, Contexts},
    controller::{Controller, kind, one},
    failure::{Exit, Failure},
    pem,
};

/// Whether a certificate is to be renewed: from a third of its lifetime on, or when a wrong clock made it.
pub(crate) fn due(identity: &PeerIdentity, now: u64) -> bool {
    let PeerIdentity { not_before, not_after, .. } = *identity;
    now < not_before || now - not_before >= not_after.saturating_sub(not_before) / 3
}

/// Renews the certificate of the context `name` in the file `path`, with a new key.
///
/// # Errors
/// When the controller refuses or the file can't be written; what is in it stays good until it expires.
pub(crate) async fn renew(
    controller: &mut impl Controller,
    path: &Path,
    name: &str,
    used: &Context,
) -> Result<(), Failure> {
    let Role::Admin { name: admin } = used.identity()?.id.role else {
        return Err(Failure::new(Exit::Error, format!("context {name} is no admin's")));
    };
    // A certificate that could not be kept is not asked for.
    Contexts::load(path)?.save(path)?;
    let key = PrivateKey::generate().context("making a key")?;
    let csr = key.csr().context("making a signing request")?.to_vec();
    // The right to change things stays what it is.
    let call = Call::AdminAdd { name: admin, csr, read_only: false };
    let enrolled = one(controller.call(call, false).await?, kind!(AdminEnrolled))?;
    let mut contexts = Contexts::load(path)?;
    // Another run may have been faster, or a person may have put another context there.
    let current = contexts.contexts.get_mut(name).filter(|now| now.certificate == used.certificate);
    let Some(context) = current else { return Ok(()) };
    take(context, &key, &enrolled)?;
    contexts.save(path)
}

/// Has the context `name` trust whom the mesh trusts now: the roots that were added, and not those that were
/// dropped, so that a context that is used now and then outlives a rotation. The controller that is asked
/// has shown a certificate below a root that the context trusts.
///
/// # Errors
/// When the controller doesn't answer or the file can't be written.
pub(crate) async fn follow(
    controller: &mut impl Controller,
    path: &Path,
    name: &str,
) -> Result<(), Failure> {
    let bundle = one(controller.call(Call::TrustShow, false).await?, kind!(Trust))?;
    let mut contexts = Contexts::load(path)?;
    let Some(context) = contexts.contexts.get_mut(name) else { return Ok(()) };
    let before = (context.trust.clone(), context.revoked_issuers.clone());
    trust(context, &bundle);
    if before == (context.trust.clone(), context.revoked_issuers.clone()) {
        return Ok(());
    }
    contexts.save(path)
}

fn trust(context: &mut Context, bundle: &TrustBundle) {
    context.trust = bundle.roots.iter().map(|root| pem::certificate(root)).collect();
    context.revoked_issuers = bundle.revoked_issuers.clone();
}

/// The controllers' addresses stay: they can be others from where the admin is.
fn take(context: &mut Context, key: &PrivateKey, enrolled: &AdminEnrolled) -> anyhow::Result<()> {
    let chain: Vec<_> = enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
    PeerIdentity::from_chain(&chain).context("the new certificate")?;
    context.certificate = enrolled.chain.iter().map(|der| pem::certificate(der)).collect();
    context.key = key.to_pem().to_string();
    trust(context, &enrolled.trust);
    Ok(())
}

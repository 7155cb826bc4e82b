//! The admin's own certificate: whoever uses a context keeps it valid.

use std::path::Path;

use anyhow::Context as _;
use cframe_pki::{
    CertificateDer,
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

/// The controllers' addresses stay: they can be others from where the admin is.
fn take(context: &mut Context, key: &PrivateKey, enrolled: &AdminEnrolled) -> anyhow::Result<()> {
    let chain: Vec<_> = enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
    PeerIdentity::from_chain(&chain).context("the new certificate")?;
    context.certificate = enrolled.chain.iter().map(|der| pem::certificate(der)).collect();
    context.key = key.to_pem().to_string();
    context.trust = enrolled.trust.roots.iter().map(|root| pem::certificate(root)).collect();
    context.revoked_issuers = enrolled.trust.revoked_issuers.clone();
    Ok(())
}

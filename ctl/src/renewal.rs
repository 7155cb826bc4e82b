//! Renewal of the admin's own certificate and roots, done by every command that uses a context.

use std::path::Path;

use anyhow::Context as _;
use cframe_console::exit::Exit;
use cframe_pki::{
    CertificateDer,
    bundle::TrustBundle,
    certificate_pem,
    identity::{PeerIdentity, Role},
    key::PrivateKey,
};
use cframe_protocol::v1::{AdminEnrolled, Call};

use crate::{
    context::{Context, Contexts},
    controller::{Controller, kind, one},
    failure::Failure,
};

/// Whether to renew a certificate: after a third of its lifetime, or when its start is in the future
/// because a clock was wrong.
pub(crate) fn is_due(identity: &PeerIdentity, now: u64) -> bool {
    let PeerIdentity { not_before, not_after, .. } = *identity;
    now < not_before || now - not_before >= not_after.saturating_sub(not_before) / 3
}

/// Renews the certificate of the context `name` in the file `path`, with a new key.
pub(crate) async fn renew(
    controller: &mut impl Controller,
    path: &Path,
    name: &str,
    used: &Context,
) -> Result<(), Failure> {
    let Role::Admin { name: admin } = used.identity()?.id.role else {
        return Err(Failure::new(
            Exit::Error,
            format!("the certificate of context {name} is not an admin's"),
        ));
    };
    // Fails when the file can't be written, before the controller issues a certificate.
    Contexts::load(path)?.save(path)?;
    let key = PrivateKey::generate().context("making a key")?;
    let csr = key.csr().context("making a signing request")?.to_vec();
    // For an admin that exists, the controller ignores `read_only`.
    let call = Call::AdminAdd { name: admin, csr, read_only: false };
    let enrolled = one(controller.call(call, false).await?, kind!(AdminEnrolled))?;
    let mut contexts = Contexts::load(path)?;
    // Another run may have renewed it, or a person may have put another context there.
    let current = contexts.contexts.get_mut(name).filter(|now| now.certificate == used.certificate);
    let Some(context) = current else { return Ok(()) };
    set_certificate(context, &key, &enrolled)?;
    contexts.save(path)
}

/// Saves the mesh's current roots in the context `name`, so that a context that is seldom used
/// survives a rotation. The controller that answers has a certificate under a root that the context
/// trusts already.
pub(crate) async fn update_trust(
    controller: &mut impl Controller,
    path: &Path,
    name: &str,
) -> Result<(), Failure> {
    let bundle = one(controller.call(Call::TrustShow, false).await?, kind!(Trust))?;
    let mut contexts = Contexts::load(path)?;
    let Some(context) = contexts.contexts.get_mut(name) else { return Ok(()) };
    let before = context.clone();
    set_trust(context, &bundle);
    if *context == before {
        return Ok(());
    }
    contexts.save(path)
}

fn set_trust(context: &mut Context, bundle: &TrustBundle) {
    context.trust = bundle.roots.iter().map(|root| certificate_pem(root)).collect();
    context.revoked_issuers = bundle.revoked_issuers.clone();
}

/// The controllers' addresses are not changed: from where the admin is, they may differ.
fn set_certificate(
    context: &mut Context,
    key: &PrivateKey,
    enrolled: &AdminEnrolled,
) -> anyhow::Result<()> {
    let chain: Vec<_> = enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
    PeerIdentity::from_chain(&chain).context("the new certificate")?;
    context.certificate = enrolled.chain.iter().map(|der| certificate_pem(der)).collect();
    context.key = key.to_pem().to_string();
    set_trust(context, &enrolled.trust);
    Ok(())
}

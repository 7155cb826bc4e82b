//! Clients of the control port: for the admin of a file of contexts, and for any other certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cframe_controller::cli::Contexts;
use cframe_pki::CertificateDer;
use cframe_pki::bundle::{DenyList, TrustBundle};
use cframe_pki::key::PrivateKey;
use cframe_pki::tls::{self, Credentials, LiveCredentials};
use cframe_pki::verifier::{PeerVerifier, Policy, Trust};
use cframe_protocol::session::Client;
use cframe_protocol::v1::Endpoint;
use rustls::pki_types::pem::PemObject;

/// The client of the current context in a file that `cframe-controller init` or `cfctl admin add` has written.
pub(crate) fn admin_client(contexts: &Path) -> Result<Client> {
    let mut contexts = Contexts::load(contexts)?;
    let current = contexts.current.take().context("no current context")?;
    let context = contexts.contexts.remove(&current).context("no such context")?;
    let credentials = Credentials {
        chain: certificates(&context.certificate)?,
        key: PrivateKey::from_pem(context.key.as_bytes())?,
    };
    let bundle = TrustBundle { roots: certificates(&context.trust)?, ..TrustBundle::default() };
    let controllers =
        context.controllers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    control_client(credentials, bundle, controllers)
}

pub(crate) fn control_client(
    credentials: Credentials,
    bundle: TrustBundle,
    controllers: Vec<Endpoint>,
) -> Result<Client> {
    let trust = Trust::new(credentials.identity()?.id.mesh, bundle, DenyList::default())?;
    let verifier = PeerVerifier::new(trust, Policy::Controller);
    let tls = tls::control_client(&LiveCredentials::new(credentials)?, verifier);
    Ok(Client::new(controllers, Arc::new(tls)))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}

//! The edges' certificates, kept in one file for each namespace: a file for each edge would be 10,000.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use cframe_pki::bundle::{DenyList, TrustBundle};
use cframe_pki::identity::Label;
use cframe_pki::key::PrivateKey;
use cframe_pki::tls::{self, Credentials, LiveCredentials};
use cframe_pki::verifier::{PeerVerifier, Policy, Trust};
use cframe_pki::{CertificateDer, files};
use cframe_protocol::session::Client;
use cframe_protocol::v1::{Endpoint, Enrolled};
use serde::{Deserialize, Serialize};

/// Certificates that are about to expire are not used again.
const LEAST_LEFT: u64 = 86_400;

/// The edges of a namespace that have certificates, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Identities {
    trust: TrustBundle,
    edges: BTreeMap<Label, Identity>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Identity {
    key: String,
    chain: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identities {
    fn path(directory: &Path, namespace: &Label) -> PathBuf {
        directory.join(format!("{namespace}.json"))
    }

    /// Those that are kept and still good; none if there is no file.
    pub(super) fn load(directory: &Path, namespace: &Label) -> Result<Self> {
        let path = Self::path(directory, namespace);
        if !path.exists() {
            return Ok(Self::default());
        }
        // More than the key of one edge, which is what `files::read_secret` is for.
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut kept: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} cannot be used; remove it", path.display()))?;
        let latest = cframe_pki::unix_now() + LEAST_LEFT;
        let good = |identity: &Identity| {
            let credentials = identity.credentials().ok();
            credentials
                .and_then(|own| own.identity().ok())
                .is_some_and(|own| own.not_after > latest)
        };
        kept.edges.retain(|_, identity| good(identity));
        Ok(kept)
    }

    pub(super) fn save(&self, directory: &Path, namespace: &Label) -> Result<()> {
        files::ensure_private_dir(directory)?;
        let text = serde_json::to_vec(self).context("writing certificates")?;
        Ok(files::replace_secret(&Self::path(directory, namespace), &text)?)
    }

    pub(super) fn has(&self, edge: &Label) -> bool {
        self.edges.contains_key(edge)
    }

    pub(super) fn put(&mut self, edge: Label, key: &PrivateKey, enrolled: Enrolled) {
        self.trust = enrolled.trust;
        let key = key.to_pem().to_string();
        self.edges.insert(edge, Identity { key, chain: enrolled.chain });
    }

    /// Forgets one whose certificate is no more.
    pub(super) fn forget(&mut self, edge: &Label) {
        self.edges.remove(edge);
    }

    /// Whom an edge dials, and as whom.
    pub(super) fn client(&self, edge: &Label, controller: Endpoint) -> Result<Client> {
        let identity =
            self.edges.get(edge).with_context(|| format!("edge {edge} has no certificate"))?;
        client(&identity.credentials()?, &self.trust, vec![controller])
    }

    /// An edge's certificate.
    pub(super) fn credentials(&self, edge: &Label) -> Result<Credentials> {
        let identity =
            self.edges.get(edge).with_context(|| format!("edge {edge} has no certificate"))?;
        identity.credentials()
    }
}

impl Identity {
    fn credentials(&self) -> Result<Credentials> {
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        Ok(Credentials { chain, key: PrivateKey::from_pem(self.key.as_bytes())? })
    }
}

/// A client of the control port with these credentials.
pub(super) fn client(
    credentials: &Credentials,
    bundle: &TrustBundle,
    controllers: Vec<Endpoint>,
) -> Result<Client> {
    let mesh = credentials.identity()?.id.mesh;
    let trust = Trust::new(mesh, bundle.clone(), DenyList::default())?;
    let verifier = PeerVerifier::new(trust, Policy::Controller);
    let live = LiveCredentials::new(credentials.clone())?;
    Ok(Client::new(controllers, Arc::new(tls::control_client(&live, verifier))))
}

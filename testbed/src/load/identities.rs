//! The edges' certificates and keys, in one file for each namespace: a file for each edge would be 10,000 files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cframe_pki::bundle::TrustBundle;
use cframe_pki::identity::Label;
use cframe_pki::key::PrivateKey;
use cframe_pki::tls::Credentials;
use cframe_pki::{CertificateDer, files};
use cframe_protocol::session::Client;
use cframe_protocol::v1::{Endpoint, Enrolled};
use serde::{Deserialize, Serialize};

use crate::admin::control_client;

/// Seconds that a certificate must still be valid to be used again.
const MIN_LIFETIME_LEFT: u64 = 86_400;

/// The certificates of a namespace, by edge.
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
    /// Omits the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identities {
    fn path(directory: &Path, namespace: &Label) -> PathBuf {
        directory.join(format!("{namespace}.json"))
    }

    /// Loads the certificates that are still valid; none if there is no file.
    pub(super) fn load(directory: &Path, namespace: &Label) -> Result<Self> {
        let path = Self::path(directory, namespace);
        if !path.exists() {
            return Ok(Self::default());
        }
        // `files::read_secret` limits the size to that of one key.
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut stored: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} cannot be used; remove it", path.display()))?;
        let earliest_expiry = cframe_pki::unix_now() + MIN_LIFETIME_LEFT;
        let is_valid = |identity: &Identity| {
            let credentials = identity.credentials().ok();
            let identity = credentials.and_then(|credentials| credentials.identity().ok());
            identity.is_some_and(|identity| identity.not_after > earliest_expiry)
        };
        stored.edges.retain(|_, identity| is_valid(identity));
        Ok(stored)
    }

    pub(super) fn save(&self, directory: &Path, namespace: &Label) -> Result<()> {
        files::ensure_private_dir(directory)?;
        let text = serde_json::to_vec(self).context("writing certificates")?;
        Ok(files::replace_secret(&Self::path(directory, namespace), &text)?)
    }

    pub(super) fn contains(&self, edge: &Label) -> bool {
        self.edges.contains_key(edge)
    }

    pub(super) fn insert(&mut self, edge: Label, key: &PrivateKey, enrolled: Enrolled) {
        self.trust = enrolled.trust;
        let key = key.to_pem().to_string();
        self.edges.insert(edge, Identity { key, chain: enrolled.chain });
    }

    pub(super) fn remove(&mut self, edge: &Label) {
        self.edges.remove(edge);
    }

    pub(super) fn client(&self, edge: &Label, controller: Endpoint) -> Result<Client> {
        control_client(self.credentials(edge)?, self.trust.clone(), vec![controller])
    }

    pub(super) fn credentials(&self, edge: &Label) -> Result<Credentials> {
        let identity = self.edges.get(edge);
        identity.with_context(|| format!("edge {edge} has no certificate"))?.credentials()
    }
}

impl Identity {
    fn credentials(&self) -> Result<Credentials> {
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        Ok(Credentials { chain, key: PrivateKey::from_pem(self.key.as_bytes())? })
    }
}

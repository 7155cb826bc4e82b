//! An admin's context: the file that `cfctl` reads.
//!
//! ```toml
//! current = "corp"
//!
//! [contexts.corp]
//! mesh = "corp"
//! controllers = ["203.0.113.5:58422"]
//! certificate = "-----BEGIN CERTIFICATE-----…"   # PEM: the leaf, then its issuing CA
//! key = "-----BEGIN PRIVATE KEY-----…"           # PEM, PKCS #8
//! trust = "-----BEGIN CERTIFICATE-----…"         # PEM: the roots
//! revoked_issuers = ["9f86d081…"]                # issuing CAs that are cut off; may be left out
//! ```
//! `current` names the context that `cfctl` uses unless told otherwise. The file is of mode 0600; the three PEM
//! texts are in it, so that it can be moved as one. What `cfctl` keeps in it besides stays as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use cframe_pki::{Fingerprint, bundle::TrustBundle, certificate_pem, files, tls::Credentials};
use serde::{Deserialize, Serialize};

/// The file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Contexts {
    /// The one that is used.
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, AdminContext>,
    /// What else is in the file.
    #[serde(flatten)]
    pub rest: toml::Table,
}

/// One context: whom to call, as whom, and whom to trust.
#[derive(Clone, Serialize, Deserialize)]
pub struct AdminContext {
    /// The mesh.
    pub mesh: String,
    /// The controllers' control ports.
    pub controllers: Vec<String>,
    /// PEM: the leaf, then its issuing CA.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
    /// PEM: the roots.
    pub trust: String,
    /// Public keys of issuing CAs that must not be in a controller's chain.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked_issuers: BTreeSet<Fingerprint>,
    /// What else `cfctl` keeps with it.
    #[serde(flatten)]
    pub rest: toml::Table,
}

impl std::fmt::Debug for AdminContext {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminContext").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl AdminContext {
    /// Puts a context together.
    pub fn new(
        mesh: String,
        controllers: Vec<String>,
        credentials: &Credentials,
        trust: &TrustBundle,
    ) -> Self {
        Self {
            mesh,
            controllers,
            certificate: credentials.chain.iter().map(|der| certificate_pem(der)).collect(),
            key: credentials.key.to_pem().to_string(),
            trust: trust.roots.iter().map(|der| certificate_pem(der)).collect(),
            revoked_issuers: trust.revoked_issuers.clone(),
            rest: toml::Table::new(),
        }
    }
}

impl Contexts {
    /// Puts a context in, in place of one of its name, whose other settings it keeps; it is the current one.
    pub fn put(&mut self, name: String, mut context: AdminContext) {
        if let Some(old) = self.contexts.remove(&name) {
            context.rest = old.rest;
        }
        self.contexts.insert(name.clone(), context);
        self.current = Some(name);
    }

    /// Reads the file; an absent one is empty.
    ///
    /// # Errors
    /// If others may read it, or it is not such a file.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = files::read_secret(path)?;
        let text = std::str::from_utf8(&text).context("the file is not text")?;
        toml::from_str(text).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// Writes the file, mode 0600, in place of the one that is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let text = zeroize::Zeroizing::new(toml::to_string(self)?);
        Ok(files::replace_secret(path, text.as_bytes())?)
    }
}

/// Where `cfctl` looks for its contexts.
pub(super) fn default_path() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => match std::env::var_os("HOME").filter(|path| !path.is_empty()) {
            Some(home) => PathBuf::from(home).join(".config"),
            None => {
                bail!("HOME is not set: say where the admin's context goes with --admin-context")
            }
        },
    };
    Ok(base.join("cframe").join("config.toml"))
}

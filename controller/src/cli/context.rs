//! An admin's contexts: the file that `cfctl` reads.
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
//! `current` names the context that `cfctl` uses by default. The file has mode 0600, and the PEM texts are in it so that it
//! can be copied as a whole. Other settings of `cfctl` in it are preserved.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use cframe_pki::{Fingerprint, bundle::TrustBundle, certificate_pem, files, tls::Credentials};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Contexts {
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, AdminContext>,
    /// Other settings.
    #[serde(flatten)]
    pub rest: toml::Table,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct AdminContext {
    pub mesh: String,
    /// Control ports.
    pub controllers: Vec<String>,
    /// PEM: the leaf, then its issuing CA.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
    /// PEM: the roots.
    pub trust: String,
    /// Public keys of issuing CAs that are not accepted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked_issuers: BTreeSet<Fingerprint>,
    /// Other settings.
    #[serde(flatten)]
    pub rest: toml::Table,
}

impl std::fmt::Debug for AdminContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminContext").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl AdminContext {
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
    /// Adds a context and makes it the current one. It replaces one of the same name, and takes over its other settings.
    pub fn put(&mut self, name: String, mut context: AdminContext) {
        if let Some(old) = self.contexts.remove(&name) {
            context.rest = old.rest;
        }
        self.contexts.insert(name.clone(), context);
        self.current = Some(name);
    }

    /// Reads the file. If it does not exist, there are no contexts.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = files::read_secret(path)?;
        let text = std::str::from_utf8(&text).context("the file is not text")?;
        toml::from_str(text).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// Writes the file with mode 0600.
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
                bail!("HOME is not set: give the file for the admin's context with --admin-context")
            }
        },
    };
    Ok(base.join("cframe").join("config.toml"))
}

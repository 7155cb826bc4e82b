//! The data directory: mode 0700, and in it
//!
//! ```text
//! ca/root.pem  ca/root-key.pem        the root; its key can be taken away after init
//! ca/issuing.pem  ca/issuing-key.pem  this controller's first issuing CA
//! ca/issuers/…  ca/current            later ones, and which of them signs: see `authorities`
//! identity/cert.pem  identity/key.pem this controller's own certificate
//! reset-key                           the secret of stateless resets, made by the first run
//! store.redb                          the embedded store
//! controller.sock                     the local socket, while it runs
//! init-unfinished                     while the CAs are here and a shared store does not have the mesh yet
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cframe_pki::{
    files,
    identity::Label,
    issue::IssuingCa,
    tls::{Credentials, LiveCredentials},
};
use cframe_store::{ReadError, redb::Redb};
use zeroize::Zeroizing;

use crate::{
    keys::{
        authorities::Authorities,
        issuer::Issuer,
        reset::{self, ResetSecret},
    },
    serve::local,
};

/// A data directory.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

/// The files that a backup holds, sealed. Those of the root's key may be elsewhere.
const KEPT: [&str; 6] = [
    "ca/root.pem",
    "ca/root-key.pem",
    "ca/issuing.pem",
    "ca/issuing-key.pem",
    "identity/cert.pem",
    "identity/key.pem",
];

impl DataDir {
    /// The directory at this path, which need not be there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The CAs.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    /// The controller's own certificate and key.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// The embedded store.
    pub fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    /// The local socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join(local::FILE)
    }

    /// Whether there is a mesh in it.
    pub fn has_store(&self) -> bool {
        self.store().exists()
    }

    /// There while `init` has put the keys here and not yet, or not known to have, the mesh into a shared store.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.0.join("init-unfinished")
    }

    /// Whether an `init` was cut off.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished().exists()
    }

    /// Whether there are CAs in it.
    pub fn has_keys(&self) -> bool {
        self.ca().join(IssuingCa::KEY_FILE).exists()
    }

    /// Makes it, or makes sure that it is private.
    ///
    /// # Errors
    /// If others may look into it, or it cannot be made.
    pub fn ensure(&self) -> Result<()> {
        Ok(files::ensure_private_dir(&self.0)?)
    }

    /// Has what was renamed into it survive a loss of power.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        std::fs::File::open(&self.0)?.sync_all()
    }

    /// Opens the embedded store.
    ///
    /// # Errors
    /// If it is damaged or in use.
    pub async fn open_store(&self) -> Result<Redb> {
        let path = self.store();
        let opened = tokio::task::spawn_blocking(move || Redb::open(&path)).await;
        Ok(opened.unwrap_or_else(|panic| Err(ReadError::Corrupt(panic.to_string())))?)
    }

    /// Reads the issuing CA with its root.
    ///
    /// # Errors
    /// If a file is missing or others may read a key.
    pub fn issuer(&self) -> Result<Issuer> {
        self.authorities().current().context("the issuing CA")
    }

    /// All issuing CAs, those that sign no more and those that will sign too.
    pub fn authorities(&self) -> Authorities {
        Authorities::new(self.ca())
    }

    /// Reads the controller's own certificate.
    ///
    /// # Errors
    /// If a file is missing or others may read the key.
    pub fn credentials(&self) -> Result<LiveCredentials> {
        let credentials =
            Credentials::load(&self.identity()).context("the controller's certificate")?;
        Ok(LiveCredentials::new(credentials)?)
    }

    /// The controller's name, of its certificate.
    ///
    /// # Errors
    /// As [`credentials`](Self::credentials).
    pub fn controller(&self) -> Result<Label> {
        Ok(self.credentials()?.identity().id.role.name().clone())
    }

    /// Reads, or at the first start makes, the secret of stateless resets. It is no part of a backup: another
    /// host has other connections.
    ///
    /// # Errors
    /// If others may read it, or it cannot be made.
    pub fn resets(&self) -> Result<ResetSecret> {
        ResetSecret::load(&self.0.join(reset::FILE))
    }

    /// The files that a backup holds, by name.
    ///
    /// # Errors
    /// If one cannot be read; the root's key may be missing.
    pub fn key_files(&self) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>> {
        let mut found = Vec::new();
        let later = self.authorities().files()?.into_iter().map(|name| format!("ca/{name}"));
        for name in KEPT.map(str::to_owned).into_iter().chain(later) {
            let path = self.0.join(&name);
            if name == "ca/root-key.pem" && !path.exists() {
                continue;
            }
            let content = if name.ends_with("key.pem") {
                files::read_secret(&path)?
            } else {
                Zeroizing::new(files::read_public(&path)?)
            };
            found.push((name, content));
        }
        Ok(found)
    }

    /// Puts a backup's files back.
    ///
    /// # Errors
    /// If a name is not one of those, or a file cannot be written.
    pub fn put_key_file(&self, name: &str, content: &[u8]) -> Result<()> {
        let later = name.strip_prefix("ca/").is_some_and(Authorities::is_file);
        anyhow::ensure!(KEPT.contains(&name) || later, "the backup has an unknown file {name:?}");
        let path = self.0.join(name);
        if later {
            files::ensure_private_dir(&self.ca())?;
            files::ensure_private_dir(&self.ca().join("issuers"))?;
        }
        if let Some(parent) = path.parent() {
            files::ensure_private_dir(parent)?;
        }
        if name.ends_with("key.pem") {
            files::write_secret(&path, content)?;
        } else {
            files::write_public(&path, content)?;
        }
        Ok(())
    }
}

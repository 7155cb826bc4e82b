//! The data directory: mode 0700, and in it
//!
//! ```text
//! ca/root.pem  ca/root-key.pem        the root; its key can be moved away after init
//! ca/issuing.pem  ca/issuing-key.pem  this controller's first issuing CA
//! ca/issuers/…  ca/current            later ones, and which of them signs: see `keys::authorities`
//! identity/cert.pem  identity/key.pem this controller's own certificate
//! reset-key                           the secret of stateless resets, made by the first run
//! store.redb                          the embedded store
//! controller.sock                     the local socket, while it runs
//! init-unfinished                     while the CAs exist and a shared store does not have the mesh yet
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

#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

/// The files that go into a backup, encrypted. The root's key may be missing.
const KEY_FILES: [&str; 6] = [
    "ca/root.pem",
    "ca/root-key.pem",
    "ca/issuing.pem",
    "ca/issuing-key.pem",
    "identity/cert.pem",
    "identity/key.pem",
];

impl DataDir {
    /// The directory need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    pub fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join(local::FILE)
    }

    pub fn has_store(&self) -> bool {
        self.store().exists()
    }

    /// Exists from when `init` has put the keys here until the mesh is in a shared store for certain.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.0.join("init-unfinished")
    }

    /// Whether an `init` was interrupted.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished().exists()
    }

    pub fn has_keys(&self) -> bool {
        self.ca().join(IssuingCa::KEY_FILE).exists()
    }

    /// Creates the directory, or checks that it is private.
    pub fn ensure(&self) -> Result<()> {
        Ok(files::ensure_private_dir(&self.0)?)
    }

    /// Makes renames in the directory survive a loss of power.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        std::fs::File::open(&self.0)?.sync_all()
    }

    pub async fn open_store(&self) -> Result<Redb> {
        let path = self.store();
        let opened = tokio::task::spawn_blocking(move || Redb::open(&path)).await;
        Ok(opened.unwrap_or_else(|panic| Err(ReadError::Corrupt(panic.to_string())))?)
    }

    /// Reads the issuing CA that signs, and its root.
    pub fn issuer(&self) -> Result<Issuer> {
        self.authorities().current().context("the issuing CA")
    }

    /// All issuing CAs.
    pub fn authorities(&self) -> Authorities {
        Authorities::new(self.ca())
    }

    /// Reads the controller's own certificate.
    pub fn credentials(&self) -> Result<LiveCredentials> {
        let credentials =
            Credentials::load(&self.identity()).context("the controller's certificate")?;
        Ok(LiveCredentials::new(credentials)?)
    }

    /// The controller's name, from its certificate.
    pub fn controller(&self) -> Result<Label> {
        Ok(self.credentials()?.identity().id.role.name().clone())
    }

    /// Reads the secret of stateless resets; the first start creates it. It is not part of a backup, because another host
    /// has other connections.
    pub fn resets(&self) -> Result<ResetSecret> {
        ResetSecret::load(&self.0.join(reset::FILE))
    }

    /// The files that go into a backup, by name.
    pub fn key_files(&self) -> Result<Vec<(String, Zeroizing<Vec<u8>>)>> {
        let mut found = Vec::new();
        let later = self.authorities().files()?.into_iter().map(|name| format!("ca/{name}"));
        for name in KEY_FILES.map(str::to_owned).into_iter().chain(later) {
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

    /// Writes a file of a backup.
    pub fn put_key_file(&self, name: &str, content: &[u8]) -> Result<()> {
        let later = name.strip_prefix("ca/").is_some_and(Authorities::is_file);
        anyhow::ensure!(
            KEY_FILES.contains(&name) || later,
            "the backup has an unknown file {name:?}"
        );
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

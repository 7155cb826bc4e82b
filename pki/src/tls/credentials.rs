//! This process's own certificate and key: on disk, and in TLS configurations, where a renewal
//! replaces them.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::pem::PemObject,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::provider;
use crate::{
    CertificateDer,
    files::{self, FileError},
    identity::{CertificateIdentityError, PeerIdentity},
    key::{KeyError, PrivateKey},
    pem,
};

/// A certificate chain and the leaf's key.
#[derive(Clone)]
pub struct Credentials {
    /// The leaf, then its issuing CA.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file could not be read or written, or others can use it.
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("{} is not a chain of certificates in PEM", .0.display())]
    Chain(PathBuf),
    #[error(transparent)]
    Identity(#[from] CertificateIdentityError),
    #[error("the private key doesn't belong to the certificate of {0}")]
    Mismatch(String),
    #[error("the private key cannot be used for TLS")]
    Rustls(#[source] rustls::Error),
}

impl Credentials {
    /// Has mode 0600.
    pub const KEY_FILE: &'static str = "key.pem";
    pub const CHAIN_FILE: &'static str = "cert.pem";
    /// A renewed key, until the chain is in place and it becomes [`KEY_FILE`](Self::KEY_FILE).
    const NEXT_KEY_FILE: &'static str = "key.next.pem";

    /// The leaf's identity. Fails if the key is not the leaf's.
    pub fn identity(&self) -> Result<PeerIdentity, CredentialsError> {
        let identity = PeerIdentity::from_chain(&self.chain)?;
        if identity.spki != self.key.spki_sha256() {
            return Err(CredentialsError::Mismatch(identity.id.to_string()));
        }
        Ok(identity)
    }

    /// Writes both files into a directory of mode 0700. Replaces existing ones.
    ///
    /// After a crash at any moment [`load`](Self::load) finds the old pair or the new one: the key is
    /// first written to a third file, which is renamed once the chain is in place.
    pub fn save(&self, directory: &Path) -> Result<(), CredentialsError> {
        self.identity()?;
        files::ensure_private_dir(directory)?;
        let next = directory.join(Self::NEXT_KEY_FILE);
        files::replace_secret(&next, self.key.to_pem().as_bytes())?;
        let chain = pem::chain(&self.chain);
        files::write_public(&directory.join(Self::CHAIN_FILE), chain.as_bytes())?;
        Ok(files::rename(&next, &directory.join(Self::KEY_FILE))?)
    }

    /// Reads both files, and completes a [`save`](Self::save) that was interrupted.
    pub fn load(directory: &Path) -> Result<Self, CredentialsError> {
        let chain = read_chain(&directory.join(Self::CHAIN_FILE))?;
        let next = directory.join(Self::NEXT_KEY_FILE);
        if next.exists() {
            let renewed = Self { chain: chain.clone(), key: read_key(&next)? };
            if renewed.identity().is_ok() {
                files::rename(&next, &directory.join(Self::KEY_FILE))?;
                return Ok(renewed);
            }
        }
        let key = read_key(&directory.join(Self::KEY_FILE))?;
        let credentials = Self { chain, key };
        credentials.identity()?;
        Ok(credentials)
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let text = files::read_public(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(CredentialsError::Chain(path.to_owned())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKey, CredentialsError> {
    PrivateKey::from_pem(&*files::read_secret(path)?)
        .map_err(|source| CredentialsError::Key { path: path.to_owned(), source })
}

/// Prints the identity only.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.identity() {
            Ok(identity) => write!(f, "Credentials({})", identity.id),
            Err(error) => write!(f, "Credentials({error})"),
        }
    }
}

/// The credentials that handshakes use. Clones share them, so that a renewal replaces them for all.
/// Established connections keep the ones that they were made with.
#[derive(Clone)]
pub struct LiveCredentials(Arc<RwLock<Current>>);

#[derive(Clone)]
struct Current {
    credentials: Arc<Credentials>,
    identity: Arc<PeerIdentity>,
    certified: Arc<CertifiedKey>,
}

impl LiveCredentials {
    pub fn new(credentials: Credentials) -> Result<Self, CredentialsError> {
        Ok(Self(Arc::new(RwLock::new(Current::new(credentials)?))))
    }

    /// Replaces the credentials for handshakes that follow. On an error the previous ones stay.
    pub fn replace(&self, credentials: Credentials) -> Result<(), CredentialsError> {
        let current = Current::new(credentials)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    pub fn identity(&self) -> Arc<PeerIdentity> {
        self.current().identity
    }

    pub fn credentials(&self) -> Arc<Credentials> {
        self.current().credentials
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.current().certified
    }

    fn current(&self) -> Current {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn new(credentials: Credentials) -> Result<Self, CredentialsError> {
        let identity = credentials.identity()?;
        let certified = CertifiedKey::from_der(
            credentials.chain.clone(),
            credentials.key.to_rustls(),
            &provider(),
        )
        .map_err(CredentialsError::Rustls)?;
        Ok(Self {
            credentials: Arc::new(credentials),
            identity: Arc::new(identity),
            certified: Arc::new(certified),
        })
    }
}

impl ResolvesServerCert for LiveCredentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for LiveCredentials {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for LiveCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveCredentials({})", self.identity().id)
    }
}

//! The issuing CAs of a controller on disk: the first one, later ones, and which of them signs.
//!
//! ```text
//! ca/issuing.pem  ca/issuing-key.pem  ca/root.pem   the first one, with the root above it
//! ca/issuers/<SHA-256 of its public key>/           a later one, the same three files
//! ca/current                                        the fingerprint of the one that signs; without it, the first
//! ```
//! None is ever replaced or removed, so the controller can sign with an earlier one again.

use std::{
    io,
    path::{Path, PathBuf},
};

use cframe_pki::{
    CertificateDer, Fingerprint,
    files::{self, FileError},
    issue::{
        CaCertificate, CaError, CaFileError, IssuingCa, RootCa, RootError, read_certificate,
        write_certificates,
    },
    key::{KeyError, PrivateKey},
};
use thiserror::Error;

use crate::keys::issuer::{Issuer, IssuerError};

const ISSUERS: &str = "issuers";
const CURRENT: &str = "current";

/// A controller's directory `ca`.
#[derive(Debug, Clone)]
pub struct Authorities(PathBuf);

#[derive(Debug, Error)]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Ca(#[from] CaFileError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the certificate: {0}")]
    Certificate(#[from] CaError),
    #[error("the root's certificate: {0}")]
    Root(#[from] RootError),
    #[error("{0}: {1}")]
    Pair(String, IssuerError),
    #[error(
        "{0} has no fingerprint of an issuing CA; write one of those in {1} into it, or remove it"
    )]
    Current(String, String),
    #[error("cannot list {0}: {1}")]
    List(String, io::Error),
    #[error("there is no issuing CA {0} here; `cframe-controller ca list` shows all of them")]
    Unknown(Fingerprint),
}

impl Authorities {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The one that signs.
    pub fn current(&self) -> Result<Issuer, AuthorityError> {
        let path = self.0.join(CURRENT);
        if !path.exists() {
            return read(&self.0);
        }
        let text = String::from_utf8_lossy(&files::read_public(&path)?).trim().to_owned();
        let named = text.parse().map_err(|_| {
            AuthorityError::Current(
                path.display().to_string(),
                self.0.join(ISSUERS).display().to_string(),
            )
        })?;
        self.load(named)
    }

    pub fn load(&self, fingerprint: Fingerprint) -> Result<Issuer, AuthorityError> {
        let later = self.directory_of(fingerprint);
        if later.join(IssuingCa::CERTIFICATE_FILE).exists() {
            return read(&later);
        }
        let first = read(&self.0)?;
        if first.ca().spki_sha256() == fingerprint {
            return Ok(first);
        }
        Err(AuthorityError::Unknown(fingerprint))
    }

    /// All of them, starting with the first one. Those without a certificate yet are omitted.
    pub fn list(&self) -> Result<Vec<Issuer>, AuthorityError> {
        let mut found = vec![read(&self.0)?];
        for fingerprint in self.later()? {
            found.push(self.load(fingerprint)?);
        }
        Ok(found)
    }

    /// Makes this one sign from the next start on.
    pub fn select(&self, fingerprint: Fingerprint) -> Result<(), AuthorityError> {
        self.load(fingerprint)?;
        let text = format!("{fingerprint}\n");
        Ok(files::write_public(&self.0.join(CURRENT), text.as_bytes())?)
    }

    /// Makes the key of a further one, and returns the signing request in DER.
    pub fn request(&self) -> Result<Vec<u8>, AuthorityError> {
        let key = PrivateKey::generate()?;
        let directory = self.directory_of(key.spki_sha256());
        files::ensure_private_dir(&self.0.join(ISSUERS))?;
        files::ensure_private_dir(&directory)?;
        files::write_secret(&directory.join(IssuingCa::KEY_FILE), key.to_pem().as_bytes())?;
        Ok(key.csr()?.to_vec())
    }

    /// Saves the certificate for a key that [`request`](Self::request) has made, with the root above it.
    pub fn complete(
        &self,
        certificate: &CertificateDer<'static>,
        root: &CertificateDer<'static>,
    ) -> Result<Fingerprint, AuthorityError> {
        let fingerprint = CaCertificate::issuing(certificate)?.spki;
        let directory = self.directory_of(fingerprint);
        let path = directory.join(IssuingCa::KEY_FILE);
        if !path.exists() {
            return Err(CaError::Key.into());
        }
        let key = PrivateKey::from_pem(&*files::read_secret(&path)?)?;
        let ca = IssuingCa::new(certificate.clone(), key)?;
        let shown = directory.display().to_string();
        Issuer::new(ca, root).map_err(|error| AuthorityError::Pair(shown, error))?;
        // The issuing CA's certificate last: then the three files are complete.
        for (name, der) in
            [(RootCa::CERTIFICATE_FILE, root), (IssuingCa::CERTIFICATE_FILE, certificate)]
        {
            write_certificates(&directory.join(name), std::slice::from_ref(der))?;
        }
        Ok(fingerprint)
    }

    /// The files of the later ones, for a backup: names below the directory `ca`.
    pub fn files(&self) -> Result<Vec<String>, AuthorityError> {
        let mut names = Vec::new();
        for fingerprint in self.later()? {
            for file in [RootCa::CERTIFICATE_FILE, IssuingCa::CERTIFICATE_FILE, IssuingCa::KEY_FILE]
            {
                names.push(format!("{ISSUERS}/{fingerprint}/{file}"));
            }
        }
        if self.0.join(CURRENT).exists() {
            names.push(CURRENT.to_owned());
        }
        Ok(names)
    }

    /// Whether [`files`](Self::files) can have this name.
    pub fn is_file(name: &str) -> bool {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            [CURRENT] => true,
            [ISSUERS, fingerprint, file] => {
                let known =
                    [RootCa::CERTIFICATE_FILE, IssuingCa::CERTIFICATE_FILE, IssuingCa::KEY_FILE];
                fingerprint.parse::<Fingerprint>().is_ok() && known.contains(file)
            }
            _ => false,
        }
    }

    /// The later ones that are complete.
    fn later(&self) -> Result<Vec<Fingerprint>, AuthorityError> {
        let directory = self.0.join(ISSUERS);
        let listed = |error| AuthorityError::List(directory.display().to_string(), error);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(listed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(listed)?.file_name();
            let Some(fingerprint) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if self.directory_of(fingerprint).join(IssuingCa::CERTIFICATE_FILE).exists() {
                found.push(fingerprint);
            }
        }
        found.sort();
        Ok(found)
    }

    fn directory_of(&self, fingerprint: Fingerprint) -> PathBuf {
        self.0.join(ISSUERS).join(fingerprint.to_string())
    }
}

fn read(directory: &Path) -> Result<Issuer, AuthorityError> {
    let ca = IssuingCa::load(directory)?;
    let root = read_certificate(&directory.join(RootCa::CERTIFICATE_FILE))?;
    let shown = directory.display().to_string();
    Issuer::new(ca, &root).map_err(|error| AuthorityError::Pair(shown, error))
}

#[cfg(test)]
mod tests {
    use cframe_pki::issue::VerifiedCsr;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn made() -> (tempfile::TempDir, RootCa, Authorities) {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("ca");
        let root = RootCa::generate(&"m.test".parse().unwrap(), NOW).unwrap();
        root.save(&directory).unwrap();
        root.issuing_ca(NOW).unwrap().save(&directory).unwrap();
        (home, root, Authorities::new(directory))
    }

    #[test]
    fn a_later_ca_signs_once_it_is_selected_and_then_the_first_can_again() {
        let (_home, _, authorities) = made();
        let first = authorities.current().unwrap().ca().spki_sha256();
        let next = RootCa::generate(&"m.test".parse().unwrap(), NOW).unwrap();
        let request = authorities.request().unwrap();
        assert_eq!(authorities.list().unwrap().len(), 1, "its certificate is missing");
        let csr = VerifiedCsr::from_der(&request).unwrap();
        let certificate = next.sign_issuing(&csr, NOW).unwrap();
        let second = authorities.complete(&certificate, next.certificate()).unwrap();
        assert_eq!(second, csr.spki_sha256());

        let current = || authorities.current().unwrap().ca().spki_sha256();
        assert_eq!(current(), first, "not before it is selected");
        authorities.select(second).unwrap();
        assert_eq!((current(), authorities.list().unwrap().len()), (second, 2));
        assert_eq!(authorities.current().unwrap().pin(), next.spki_sha256());
        authorities.select(first).unwrap();
        assert_eq!(current(), first);
        let files = authorities.files().unwrap();
        assert_eq!(files.len(), 4);
        assert!(files.iter().all(|name| Authorities::is_file(name)), "{files:?}");
        assert!(!Authorities::is_file("issuers/../../key.pem"));
    }

    #[test]
    fn a_certificate_for_another_key_or_by_another_root_is_not_saved() {
        let (_home, root, authorities) = made();
        let other = RootCa::generate(&"m.test".parse().unwrap(), NOW).unwrap();
        let stranger = other.issuing_ca(NOW).unwrap();
        let error = authorities.complete(stranger.certificate(), other.certificate()).unwrap_err();
        assert!(matches!(error, AuthorityError::Certificate(CaError::Key)), "{error}");
        let csr = VerifiedCsr::from_der(&authorities.request().unwrap()).unwrap();
        let certificate = other.sign_issuing(&csr, NOW).unwrap();
        let error = authorities.complete(&certificate, root.certificate()).unwrap_err();
        assert!(matches!(error, AuthorityError::Pair(..)), "{error}");
        assert!(matches!(authorities.select(csr.spki_sha256()), Err(AuthorityError::Unknown(_))));
    }
}

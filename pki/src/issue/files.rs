//! CAs on disk: `root.pem` with `root-key.pem`, `issuing.pem` with `issuing-key.pem`.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;

use super::{IssuingCa, RootCa, certificate::CaError};
use crate::{
    CertificateDer,
    files::{self, FileError},
    key::{KeyError, PrivateKey},
    pem,
};

/// A CA could not be read from, or written to, its directory.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// A file could not be read or written, or others can use it.
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} has no PEM block CERTIFICATE", .0.display())]
    NoCertificate(PathBuf),
    #[error("{}", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("{}", path.display())]
    Ca {
        /// The certificate's file.
        path: PathBuf,
        #[source]
        source: CaError,
    },
}

impl RootCa {
    pub const CERTIFICATE_FILE: &'static str = "root.pem";
    pub const KEY_FILE: &'static str = "root-key.pem";

    /// Writes both files into a directory of mode 0700, which is made if missing. Fails if the key
    /// file exists.
    pub fn save(&self, directory: &Path) -> Result<(), CaFileError> {
        let names = (Self::CERTIFICATE_FILE, Self::KEY_FILE);
        save(directory, names, self.certificate(), self.key())
    }

    pub fn load(directory: &Path) -> Result<Self, CaFileError> {
        load(directory, (Self::CERTIFICATE_FILE, Self::KEY_FILE), Self::new)
    }
}

impl IssuingCa {
    pub const CERTIFICATE_FILE: &'static str = "issuing.pem";
    pub const KEY_FILE: &'static str = "issuing-key.pem";

    /// Writes both files into a directory of mode 0700, which is made if missing. Fails if the key
    /// file exists.
    pub fn save(&self, directory: &Path) -> Result<(), CaFileError> {
        let names = (Self::CERTIFICATE_FILE, Self::KEY_FILE);
        save(directory, names, self.certificate(), self.key())
    }

    pub fn load(directory: &Path) -> Result<Self, CaFileError> {
        load(directory, (Self::CERTIFICATE_FILE, Self::KEY_FILE), Self::new)
    }
}

/// Reads the first certificate of a PEM file.
pub fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, CaFileError> {
    CertificateDer::from_pem_slice(&files::read_public(path)?)
        .map_err(|_| CaFileError::NoCertificate(path.to_owned()))
}

/// Reads all certificates of a PEM file, at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let text = files::read_public(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| CaFileError::NoCertificate(path.to_owned()))
}

/// Writes certificates as PEM, one after the other. Replaces an existing file.
pub fn write_certificates(
    path: &Path,
    certificates: &[CertificateDer<'_>],
) -> Result<(), CaFileError> {
    Ok(files::write_public(path, pem::chain(certificates).as_bytes())?)
}

/// Writes a signing request (DER) as PEM. Replaces an existing file.
pub fn write_request(path: &Path, csr: &[u8]) -> Result<(), CaFileError> {
    Ok(files::write_public(path, pem::encode("CERTIFICATE REQUEST", csr).as_bytes())?)
}

fn save(
    directory: &Path,
    (certificate_file, key_file): (&str, &str),
    certificate: &CertificateDer<'_>,
    key: &PrivateKey,
) -> Result<(), CaFileError> {
    files::ensure_private_dir(directory)?;
    // The key first: it is the one that refuses to replace a file, and then nothing has changed.
    files::write_secret(&directory.join(key_file), key.to_pem().as_bytes())?;
    write_certificates(&directory.join(certificate_file), std::slice::from_ref(certificate))
}

fn load<T>(
    directory: &Path,
    (certificate_file, key_file): (&str, &str),
    new: impl FnOnce(CertificateDer<'static>, PrivateKey) -> Result<T, CaError>,
) -> Result<T, CaFileError> {
    let path = directory.join(certificate_file);
    let certificate = read_certificate(&path)?;
    let key_path = directory.join(key_file);
    let key = PrivateKey::from_pem(&*files::read_secret(&key_path)?)
        .map_err(|source| CaFileError::Key { path: key_path, source })?;
    new(certificate, key).map_err(|source| CaFileError::Ca { path, source })
}

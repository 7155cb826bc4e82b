//! CAs on disk: `root.pem` with `root-key.pem`, `issuing.pem` with `issuing-key.pem`.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;

use super::{CaError, IssuingCa, RootCa};
use crate::{
    CertificateDer,
    files::{self, FileError},
    key::{KeyError, PrivateKey},
    pem,
};

/// A CA could not be read from, or written to, its directory.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// A file could not be read or written, or is open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// No certificate in the file.
    #[error("{} has no PEM block CERTIFICATE", .0.display())]
    NoCertificate(PathBuf),
    /// No usable key in the file.
    #[error("{}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// Certificate and key are no CA.
    #[error("{}", path.display())]
    Ca {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CaError,
    },
}

impl RootCa {
    /// The file of the certificate, which stays when the key is taken away.
    pub const CERTIFICATE_FILE: &'static str = "root.pem";
    /// The file of the key.
    pub const KEY_FILE: &'static str = "root-key.pem";

    /// Writes both files into a directory of mode 0700, which is made if need be.
    ///
    /// # Errors
    /// When a key is there already, or a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), CaFileError> {
        let names = (Self::CERTIFICATE_FILE, Self::KEY_FILE);
        save(directory, names, self.certificate(), self.key())
    }

    /// Reads both files.
    ///
    /// # Errors
    /// When one is missing, the key is open to others, or they are no root CA.
    pub fn load(directory: &Path) -> Result<Self, CaFileError> {
        let (certificate, key) = load(directory, (Self::CERTIFICATE_FILE, Self::KEY_FILE))?;
        Self::new(certificate, key).map_err(|source| CaFileError::Ca {
            path: directory.join(Self::CERTIFICATE_FILE),
            source,
        })
    }
}

impl IssuingCa {
    /// The file of the certificate.
    pub const CERTIFICATE_FILE: &'static str = "issuing.pem";
    /// The file of the key.
    pub const KEY_FILE: &'static str = "issuing-key.pem";

    /// Writes both files into a directory of mode 0700, which is made if need be.
    ///
    /// # Errors
    /// When a key is there already, or a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), CaFileError> {
        let names = (Self::CERTIFICATE_FILE, Self::KEY_FILE);
        save(directory, names, self.certificate(), self.key())
    }

    /// Reads both files.
    ///
    /// # Errors
    /// When one is missing, the key is open to others, or they are no issuing CA.
    pub fn load(directory: &Path) -> Result<Self, CaFileError> {
        let (certificate, key) = load(directory, (Self::CERTIFICATE_FILE, Self::KEY_FILE))?;
        Self::new(certificate, key).map_err(|source| CaFileError::Ca {
            path: directory.join(Self::CERTIFICATE_FILE),
            source,
        })
    }
}

/// Reads the first certificate of a PEM file: a root's, say, whose key is elsewhere.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, CaFileError> {
    CertificateDer::from_pem_slice(&files::read_public(path)?)
        .map_err(|_| CaFileError::NoCertificate(path.to_owned()))
}

/// Reads all certificates of a PEM file: an issuing CA's and its root's, say.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaFileError> {
    let text = files::read_public(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| CaFileError::NoCertificate(path.to_owned()))
}

/// Writes certificates as PEM, one after the other, in place of what may be there.
///
/// # Errors
/// When the file cannot be written.
pub fn write_certificates(
    path: &Path,
    certificates: &[CertificateDer<'_>],
) -> Result<(), CaFileError> {
    let text: String =
        certificates.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
    Ok(files::write_public(path, text.as_bytes())?)
}

/// Writes a signing request (DER) as PEM, in place of what may be there.
///
/// # Errors
/// When the file cannot be written.
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
    // The key first: it alone refuses to replace one, and then nothing has been touched.
    files::write_secret(&directory.join(key_file), key.to_pem().as_bytes())?;
    write_certificates(&directory.join(certificate_file), std::slice::from_ref(certificate))
}

fn load(
    directory: &Path,
    (certificate_file, key_file): (&str, &str),
) -> Result<(CertificateDer<'static>, PrivateKey), CaFileError> {
    let certificate = read_certificate(&directory.join(certificate_file))?;
    let path = directory.join(key_file);
    let key = PrivateKey::from_pem(&*files::read_secret(&path)?)
        .map_err(|source| CaFileError::Key { path, source })?;
    Ok((certificate, key))
}

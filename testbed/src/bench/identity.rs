//! Self-signed certificates for the peers that need one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

/// A certificate with its key.
pub(super) struct Identity(CertifiedKey<KeyPair>);

/// Where it was written.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Identity {
    /// Makes one for a DNS name or an address.
    pub(super) fn new(name: &str) -> Result<Self> {
        generate_simple_self_signed([name.to_owned()]).map(Self).context("making a certificate")
    }

    /// Writes both as PEM. The directory is the lab's, which nobody else can read.
    pub(super) fn write(&self, dir: &Path, name: &str) -> Result<Files> {
        let Self(CertifiedKey { cert, signing_key }) = self;
        let files = Files {
            certificate: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, cert.pem()).context("writing a certificate")?;
        fs::write(&files.key, signing_key.serialize_pem()).context("writing a key")?;
        Ok(files)
    }

    /// The certificate's SHA-256 in hexadecimal.
    pub(super) fn sha256(&self) -> String {
        self.digits().concat()
    }

    /// The same in pairs, as OpenVPN wants it.
    pub(super) fn fingerprint(&self) -> String {
        self.digits().join(":")
    }

    fn digits(&self) -> Vec<String> {
        let hash = digest(&SHA256, self.0.cert.der());
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

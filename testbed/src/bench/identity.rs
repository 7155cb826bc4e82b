//! Self-signed certificates for contenders that need them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

pub(super) struct Identity(CertifiedKey<KeyPair>);

/// PEM files of an identity.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Identity {
    /// `name` is a DNS name or an IP address.
    pub(super) fn new(name: &str) -> Result<Self> {
        generate_simple_self_signed([name.to_owned()]).map(Self).context("creating a certificate")
    }

    /// Writes certificate and key as PEM to the lab's directory, which other users can't read.
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

    /// SHA-256 of the certificate in hexadecimal.
    pub(super) fn sha256(&self) -> String {
        self.digits().concat()
    }

    /// SHA-256 of the certificate in OpenVPN's format: hexadecimal bytes separated by colons.
    pub(super) fn fingerprint(&self) -> String {
        self.digits().join(":")
    }

    fn digits(&self) -> Vec<String> {
        let hash = digest(&SHA256, self.0.cert.der());
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

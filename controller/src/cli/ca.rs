//! `ca`: what is done with the root's key, wherever that lies.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use cframe_pki::{
    files,
    issue::{RootCa, VerifiedCsr, write_certificate},
    unix_now,
};
use clap::Subcommand;

use super::Failure;

/// What is done with the root.
#[derive(Debug, Subcommand)]
pub(super) enum CaVerb {
    /// Sign the request of a controller that joins, with the root's key
    ///
    /// Only the request's public key counts. The certificate is that of an issuing CA with a path length of 0:
    /// compare the key's fingerprint with what `init --join` has printed.
    Sign {
        /// The request, PEM
        request: PathBuf,
        /// Directory of the root's certificate and key (root.pem, root-key.pem)
        #[arg(long, value_name = "DIR", env = "CFRAME_ROOT")]
        root: PathBuf,
        /// The new file for the certificate, PEM
        #[arg(long, value_name = "FILE", env = "CFRAME_OUT")]
        out: PathBuf,
    },
}

pub(super) fn command(verb: CaVerb) -> Result<(), Failure> {
    let CaVerb::Sign { request, root, out } = verb;
    if out.symlink_metadata().is_ok() {
        return Err(Failure::conflict(anyhow!("{} exists; name a new file", out.display())));
    }
    let root = load_root(&root)?;
    let text = files::read_public(&request).context("the request")?;
    let csr = VerifiedCsr::from_pem(&text).with_context(|| request.display().to_string())?;
    let certificate = root.certify_issuing_ca(&csr, unix_now())?;
    write_certificate(&out, &certificate).context("the certificate")?;
    eprintln!("issuing CA of mesh {} for the key {}", root.mesh(), csr.spki_sha256());
    eprintln!(
        "next, on the controller: cframe-controller init --join … --issuing-certificate {}",
        out.display()
    );
    Ok(())
}

/// Reads the root from its directory, or the directory of one of its files.
pub(super) fn load_root(path: &Path) -> Result<RootCa, Failure> {
    let directory = match path.parent() {
        Some(parent) if path.is_file() => parent,
        Some(_) | None => path,
    };
    Ok(RootCa::load(directory)
        .with_context(|| format!("the root CA in {}", directory.display()))?)
}

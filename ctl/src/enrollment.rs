//! What `cert enroll` writes for a gateway: all that joining would have given it, except the key, which
//! it has.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cframe_pki::{files, tls::Credentials};
use cframe_protocol::v1::Enrolled;

use crate::pem;

/// The file that `cframe-edge import` takes: the controller's answer as JSON.
pub const ANSWER_FILE: &str = "enrolled.json";

/// Writes the answer, and the chain in PEM for people, into a directory that exists. Returns the files'
/// paths.
///
/// # Errors
/// When one can't be written.
pub fn write(directory: &Path, enrolled: &Enrolled) -> anyhow::Result<Vec<PathBuf>> {
    let answer = serde_json::to_string(enrolled).context("the answer can't be written as JSON")?;
    let chain: String = enrolled.chain.iter().map(|der| pem::certificate(der)).collect();
    let answer_file = directory.join(ANSWER_FILE);
    let chain_file = directory.join(Credentials::CHAIN_FILE);
    files::write_public(&answer_file, (answer + "\n").as_bytes())?;
    files::write_public(&chain_file, chain.as_bytes())?;
    Ok(vec![answer_file, chain_file])
}

//! The files that `cert enroll` writes for a gateway: all that `cframe-edge join` would have received.
//! The key is on the gateway already.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cframe_pki::{certificate_pem, files, tls::Credentials};
use cframe_protocol::v1::Enrolled;

/// The controller's answer as JSON, for `cframe-edge import`.
pub const ANSWER_FILE: &str = "enrolled.json";

/// Writes the answer, and the chain as PEM, into a directory that exists. Returns the files' paths.
pub fn write(directory: &Path, enrolled: &Enrolled) -> anyhow::Result<Vec<PathBuf>> {
    let answer = serde_json::to_string(enrolled).context("the answer can't be written as JSON")?;
    let chain: String = enrolled.chain.iter().map(|der| certificate_pem(der)).collect();
    let answer_file = directory.join(ANSWER_FILE);
    let chain_file = directory.join(Credentials::CHAIN_FILE);
    files::write_public(&answer_file, (answer + "\n").as_bytes())?;
    files::write_public(&chain_file, chain.as_bytes())?;
    Ok(vec![answer_file, chain_file])
}

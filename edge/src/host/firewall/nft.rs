//! The program `nft`.

use std::{io, process::Stdio};

use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("the program nft (package nftables) cannot be started: {0}")]
    Missing(#[source] io::Error),
    #[error("nft refused the table: {0}")]
    Refused(String),
}

/// A running `nft`, which applies a script in one transaction.
pub(super) struct Nft {
    child: Child,
}

impl Nft {
    pub(super) fn start() -> Result<Self, NftError> {
        let child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(NftError::Missing)?;
        Ok(Self { child })
    }

    /// The number of its netlink socket: the kernel takes the process's, if no other socket has it.
    pub(super) fn port(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) async fn apply(mut self, script: String) -> Result<(), NftError> {
        if let Some(mut stdin) = self.child.stdin.take() {
            // If `nft` ends early, it has written why to stderr.
            let _ = stdin.write_all(script.as_bytes()).await;
        }
        let output = self.child.wait_with_output().await.map_err(NftError::Missing)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(NftError::Refused(first_lines(&output.stderr))),
        }
    }
}

pub(in crate::host) async fn apply(script: String) -> Result<(), NftError> {
    Nft::start()?.apply(script).await
}

/// The message, without the lines that repeat the script: they can be very long.
fn first_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(&stderr[..stderr.len().min(4096)]);
    let lines = text.lines().filter(|line| line.contains("rror")).take(2);
    let text = lines.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "it ended with an error".to_owned() } else { text }
}

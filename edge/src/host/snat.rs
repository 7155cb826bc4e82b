//! Masquerading toward the site, with `nft` and its own table.

use std::{io, process::Stdio};

use tokio::{io::AsyncWriteExt as _, process::Command};
use tracing::warn;

use crate::instance::Instance;

#[derive(Debug, thiserror::Error)]
pub enum SnatError {
    #[error("snat needs the program nft (package nftables): {0}")]
    Missing(#[source] io::Error),
    #[error("nft refused the masquerading rule: {0}")]
    Refused(String),
}

/// Masquerading of packets from the TUN that leave through another device, on or off as configured.
#[derive(Debug)]
pub struct Snat {
    instance: Instance,
    /// Why the last change failed.
    pub error: Option<String>,
}

impl Snat {
    pub fn new(instance: Instance) -> Self {
        Self { instance, error: None }
    }

    /// Switches it on or off. An error is logged and stored.
    pub async fn apply(&mut self, on: bool) {
        let result = match on {
            true => nft(&format!("{}{}", removal(&self.instance), rules(&self.instance))).await,
            false => disable(&self.instance).await,
        };
        self.error = result.err().map(|error| error.to_string());
        if let Some(error) = &self.error {
            warn!(%error, "no masquerading");
        }
    }
}

/// Removes the table. Without `nft` there cannot be one.
pub async fn disable(instance: &Instance) -> Result<(), SnatError> {
    match nft(&removal(instance)).await {
        Err(SnatError::Missing(_)) => Ok(()),
        other => other,
    }
}

/// The table is added first, because the deletion of a missing table fails.
fn removal(instance: &Instance) -> String {
    let table = table(instance);
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn rules(instance: &Instance) -> String {
    let (table, device) = (table(instance), instance.name());
    format!(
        "table inet {table} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tiifname \"{device}\" oifname != \"{device}\" masquerade\n\
         \t}}\n\
         }}\n"
    )
}

fn table(instance: &Instance) -> String {
    format!("cframe-{instance}")
}

async fn nft(script: &str) -> Result<(), SnatError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(SnatError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If `nft` ends early, it has written why to stderr.
        let _ = stdin.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(SnatError::Missing)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(SnatError::Refused(text.lines().take(3).collect::<Vec<_>>().join(" ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_matches_packets_from_the_tunnel_toward_the_site() {
        let script = rules(&Instance::default());
        assert!(script.contains("table inet cframe-cframe0 {"));
        assert!(script.contains("iifname \"cframe0\" oifname != \"cframe0\" masquerade"));
    }
}

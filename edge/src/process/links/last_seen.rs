//! Where peers were last seen, on disk. After a restart, peers without an endpoint are dialled there
//! instead of being waited for.

use std::{collections::BTreeMap, io, net::SocketAddr, path::Path};

use cframe_mesh::LinkStatus;
use cframe_pki::{files, identity::Label};
use tokio::task::JoinSet;
use tracing::debug;

use crate::process::latest_writer::LatestWriter;

/// The name in the data directory.
const FILE: &str = "last-seen.json";

type Known = BTreeMap<Label, SocketAddr>;

#[derive(Debug)]
pub(in crate::process) struct LastSeen {
    known: Known,
    writer: LatestWriter<Known>,
}

impl LastSeen {
    /// Loads what is in this directory. A file that cannot be used counts as none.
    pub(in crate::process) fn load(dir: &Path, tasks: &mut JoinSet<()>) -> Self {
        let path = dir.join(FILE);
        let text = files::read_public(&path).ok();
        let known = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        // Earlier versions wrote mapped addresses.
        let canonical = |(peer, at): (Label, SocketAddr)| {
            (peer, SocketAddr::new(at.ip().to_canonical(), at.port()))
        };
        let known: Known = Known::into_iter(known).map(canonical).collect();
        let writer = LatestWriter::start(tasks, move |known| {
            // Without the file, peers come by themselves, only later.
            write(&path, &known)
                .inspect_err(|error| debug!(%error, "last-seen.json not saved"))
                .map_err(|error| error.to_string())
        });
        Self { known, writer }
    }

    pub(in crate::process) fn address(&self, peer: &Label) -> Option<SocketAddr> {
        self.known.get(peer).copied()
    }

    pub(super) fn record(&mut self, peer: &Label, remote: SocketAddr) {
        if self.known.insert(peer.clone(), remote) != Some(remote) {
            self.writer.save(self.known.clone());
        }
    }

    /// Records where all links are now, and forgets peers that have left.
    pub(super) fn follow(&mut self, links: &[LinkStatus]) {
        let seen = |link: &LinkStatus| {
            let remote = link.remote.or_else(|| self.address(&link.peer));
            remote.map(|remote| (link.peer.clone(), remote))
        };
        let known: Known = links.iter().filter_map(seen).collect();
        if known != self.known {
            self.known = known;
            self.writer.save(self.known.clone());
        }
    }
}

fn write(path: &Path, known: &Known) -> io::Result<()> {
    let text = serde_json::to_vec(known).map_err(io::Error::other)?;
    files::write_public(path, &text).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_recorded_peer_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let peer: Label = "aliyun-sz".parse().unwrap();
        let remote: SocketAddr = "192.0.2.7:58423".parse().unwrap();
        let mut tasks = JoinSet::new();
        let mut seen = LastSeen::load(dir.path(), &mut tasks);
        assert_eq!(seen.address(&peer), None);
        seen.record(&peer, remote);
        drop(seen);
        while tasks.join_next().await.is_some() {}
        let mut seen = LastSeen::load(dir.path(), &mut tasks);
        assert_eq!(seen.address(&peer), Some(remote));
        seen.follow(&[]);
        assert_eq!(seen.address(&peer), None, "it is no longer a peer");
    }

    #[tokio::test]
    async fn a_damaged_file_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let seen = LastSeen::load(dir.path(), &mut JoinSet::new());
        assert!(seen.known.is_empty());
    }
}

//! Where peers without an endpoint were last seen, on disk: an edge that starts again dials them
//! there, instead of waiting for their next attempt.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use cframe_mesh::LinkStatus;
use cframe_pki::{files, identity::Label};
use cframe_protocol::v1::Endpoint;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tracing::debug;

use super::resolve::Resolver;

/// The name in the data directory.
const FILE: &str = "last-seen.json";

/// Many links that come up together are written once.
const PAUSE: Duration = Duration::from_millis(250);

type Known = BTreeMap<Label, SocketAddr>;

#[derive(Debug)]
pub(super) struct LastSeen {
    known: Known,
    latest: watch::Sender<Known>,
}

impl LastSeen {
    /// What is on disk in this directory; nothing, if that cannot be used.
    pub(super) fn load(dir: &Path, tasks: &mut JoinSet<()>) -> Self {
        let path = dir.join(FILE);
        let known = files::read_public(&path).ok();
        let known: Known =
            known.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let (latest, changed) = watch::channel(Known::default());
        tasks.spawn(write(path, changed));
        Self { known, latest }
    }

    /// Where a peer may be dialled: its endpoints, or where it was last seen if it has none.
    pub(super) fn or_endpoints(
        &self,
        resolver: &Resolver,
        peer: &Label,
        endpoints: &[Endpoint],
    ) -> Vec<SocketAddr> {
        match endpoints {
            [] => self.known.get(peer).copied().into_iter().collect(),
            endpoints => resolver.addresses(endpoints),
        }
    }

    /// A peer is there now.
    pub(super) fn note(&mut self, peer: &Label, remote: SocketAddr) {
        if self.known.insert(peer.clone(), remote) != Some(remote) {
            self.latest.send_replace(self.known.clone());
        }
    }

    /// Takes over where links have moved to, and forgets who is no peer any more.
    pub(super) fn follow(&mut self, links: &[LinkStatus]) {
        let seen = |link: &LinkStatus| {
            let remote = link.remote.or_else(|| self.known.get(&link.peer).copied());
            remote.map(|remote| (link.peer.clone(), remote))
        };
        let known: Known = links.iter().filter_map(seen).collect();
        if known != self.known {
            self.known = known;
            self.latest.send_replace(self.known.clone());
        }
    }
}

/// The latest wins. What fails is of no weight: peers come by themselves, only later.
async fn write(path: PathBuf, mut changed: watch::Receiver<Known>) {
    while changed.changed().await.is_ok() {
        let known = changed.borrow_and_update().clone();
        let path = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec(&known).map_err(std::io::Error::other)?;
            files::write_public(&path, &text).map_err(std::io::Error::other)
        });
        if let Ok(Err(error)) = written.await {
            debug!(%error, "where peers are was not saved");
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_noted_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let peer: Label = "aliyun-sz".parse().unwrap();
        let remote: SocketAddr = "192.0.2.7:58423".parse().unwrap();
        let mut tasks = JoinSet::new();
        let mut seen = LastSeen::load(dir.path(), &mut tasks);
        let resolver = Resolver::default();
        assert_eq!(seen.or_endpoints(&resolver, &peer, &[]), []);
        seen.note(&peer, remote);
        drop(seen);
        while tasks.join_next().await.is_some() {}
        let mut seen = LastSeen::load(dir.path(), &mut tasks);
        assert_eq!(seen.or_endpoints(&resolver, &peer, &[]), [remote]);
        let endpoint = "203.0.113.7:1".parse().unwrap();
        let dialled = seen.or_endpoints(&resolver, &peer, &[endpoint]);
        assert_eq!(dialled, ["203.0.113.7:1".parse().unwrap()], "an endpoint counts more");
        seen.follow(&[]);
        assert_eq!(seen.or_endpoints(&resolver, &peer, &[]), [], "it is no peer any more");
    }

    #[tokio::test]
    async fn a_damaged_file_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let seen = LastSeen::load(dir.path(), &mut JoinSet::new());
        assert!(seen.known.is_empty());
    }
}

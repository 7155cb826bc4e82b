//! Writing snapshots, outside the main task: the latest wins.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cframe_pki::{bundle::DenyList, identity::SpiffeId, unix_now};
use cframe_protocol::v1::Desired;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::warn;

use crate::snapshot::{self, Snapshot};

/// A flapping route is written a few times a second at most.
const PAUSE: Duration = Duration::from_millis(250);

/// A disk that is full is tried, and told of, no more often.
const RETRY: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });

/// The state, and denials of earlier epochs.
type Latest = Option<(Arc<Desired>, DenyList)>;

#[derive(Debug)]
pub(super) struct Saver {
    latest: watch::Sender<Latest>,
    finished: oneshot::Receiver<()>,
}

impl Saver {
    pub(super) fn start(path: PathBuf, id: SpiffeId, tasks: &mut JoinSet<()>) -> Self {
        let (latest, mut changed) = watch::channel(None);
        let (finish, finished) = oneshot::channel();
        tasks.spawn(async move {
            // What was sent before the sender was dropped is still seen.
            while changed.changed().await.is_ok() {
                loop {
                    let latest: Latest = changed.borrow_and_update().clone();
                    let Some((desired, denied)) = latest else { break };
                    if write(path.clone(), id.clone(), desired, denied).await {
                        sleep(PAUSE).await;
                        break;
                    }
                    if timeout(RETRY, closed(&mut changed)).await.is_ok() {
                        break;
                    }
                }
            }
            let _ = finish.send(());
        });
        Self { latest, finished }
    }

    pub(super) fn save(&self, desired: Arc<Desired>, denied: DenyList) {
        self.latest.send_replace(Some((desired, denied)));
    }

    /// Waits until the latest is on the disk.
    pub(super) async fn finish(self) {
        drop(self.latest);
        let _ = timeout(Duration::from_secs(5), self.finished).await;
    }
}

async fn closed(changed: &mut watch::Receiver<Latest>) {
    while changed.changed().await.is_ok() {}
}

async fn write(path: PathBuf, id: SpiffeId, desired: Arc<Desired>, denied: DenyList) -> bool {
    let written = tokio::task::spawn_blocking(move || {
        let desired = Arc::unwrap_or_clone(desired);
        snapshot::save(&path, &Snapshot { id, saved: unix_now(), desired, denied })
    });
    let error = match written.await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => anyhow::Error::new(error),
        Err(error) => error.into(),
    };
    warn!("the state was not saved, and a restart would begin with an older one: {error:#}");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_could_not_be_saved_is_saved_once_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join(snapshot::FILE);
        let id: SpiffeId = "spiffe://mesh.example/ns/prod/edge/idc".parse().unwrap();
        let mut tasks = JoinSet::new();
        let saver = Saver::start(path.clone(), id, &mut tasks);
        saver.save(Arc::default(), DenyList::default());
        // Let it fail.
        sleep(Duration::from_millis(20)).await;
        assert!(snapshot::load(&path).unwrap().is_none());
        std::fs::create_dir(dir.path().join("missing")).unwrap();
        let saved = async {
            while snapshot::load(&path).unwrap().is_none() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), saved).await.unwrap();
        saver.finish().await;
    }
}

//! Writing snapshots, outside the main task: the latest wins.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cframe_pki::{identity::SpiffeId, unix_now};
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

#[derive(Debug)]
pub(super) struct Saver {
    latest: watch::Sender<Option<Arc<Desired>>>,
    finished: oneshot::Receiver<()>,
}

impl Saver {
    pub(super) fn start(path: PathBuf, id: SpiffeId, tasks: &mut JoinSet<()>) -> Self {
        let (latest, mut changed) = watch::channel(None);
        let (finish, finished) = oneshot::channel();
        tasks.spawn(async move {
            // What was sent before the sender was dropped is still seen.
            while changed.changed().await.is_ok() {
                let state: Option<Arc<Desired>> = changed.borrow_and_update().clone();
                if let Some(state) = state {
                    write(path.clone(), id.clone(), state).await;
                    sleep(PAUSE).await;
                }
            }
            let _ = finish.send(());
        });
        Self { latest, finished }
    }

    pub(super) fn save(&self, state: Arc<Desired>) {
        self.latest.send_replace(Some(state));
    }

    /// Waits until the latest is on the disk.
    pub(super) async fn finish(self) {
        drop(self.latest);
        let _ = timeout(Duration::from_secs(5), self.finished).await;
    }
}

async fn write(path: PathBuf, id: SpiffeId, state: Arc<Desired>) {
    let written = tokio::task::spawn_blocking(move || {
        let desired = Arc::unwrap_or_clone(state);
        snapshot::save(&path, &Snapshot { id, saved: unix_now(), desired })
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = anyhow::Error::new(error);
            warn!(
                "the state was not saved, and a restart would begin with an older one: {error:#}"
            );
        }
        Err(error) => warn!(%error, "the state was not saved"),
    }
}

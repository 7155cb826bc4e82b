//! Writes the latest of several values to disk, outside the main task.

use std::time::Duration;

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::warn;

/// The least time between two writes.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);
/// The least time between two attempts on a disk that refuses them.
const RETRY_DELAY: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 4 });
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct LatestWriter<T> {
    latest: watch::Sender<Option<T>>,
    /// Why the last write failed.
    error: watch::Receiver<Option<String>>,
    finished: oneshot::Receiver<()>,
}

impl<T: Clone + Send + Sync + 'static> LatestWriter<T> {
    /// `write` may block. A failed write is tried again.
    pub(super) fn start(
        tasks: &mut JoinSet<()>,
        write: impl Fn(T) -> Result<(), String> + Clone + Send + Sync + 'static,
    ) -> Self {
        let (latest, changes) = watch::channel(None);
        let (finish, finished) = oneshot::channel();
        let (outcome, error) = watch::channel(None);
        tasks.spawn(async move {
            write_all(changes, write, outcome).await;
            let _ = finish.send(());
        });
        Self { latest, error, finished }
    }

    pub(super) fn save(&self, value: T) {
        self.latest.send_replace(Some(value));
    }

    /// Why the last write failed, if it did.
    pub(super) fn error(&self) -> Option<String> {
        self.error.borrow().clone()
    }

    /// Waits until the latest value is on disk, or until the timeout.
    pub(super) async fn finish(self) {
        drop(self.latest);
        let _ = timeout(FINISH_TIMEOUT, self.finished).await;
    }
}

async fn write_all<T: Clone + Send + Sync + 'static>(
    mut changes: watch::Receiver<Option<T>>,
    write: impl Fn(T) -> Result<(), String> + Clone + Send + 'static,
    outcome: watch::Sender<Option<String>>,
) {
    // A value that was sent before the sender was dropped is still seen here.
    while changes.changed().await.is_ok() {
        loop {
            let Some(value) = changes.borrow_and_update().clone() else { break };
            let write = write.clone();
            match tokio::task::spawn_blocking(move || write(value)).await {
                Ok(Ok(())) => {
                    outcome.send_replace(None);
                    sleep(WRITE_INTERVAL).await;
                    break;
                }
                Ok(Err(error)) => drop(outcome.send_replace(Some(error))),
                Err(error) => warn!(%error, "a write to disk has failed"),
            }
            if timeout(RETRY_DELAY, closed(&mut changes)).await.is_ok() {
                break;
            }
        }
    }
}

async fn closed<T>(changes: &mut watch::Receiver<T>) {
    while changes.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_could_not_be_saved_is_saved_once_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("file");
        let mut tasks = JoinSet::new();
        let target = path.clone();
        let writer = LatestWriter::start(&mut tasks, move |text: &str| {
            std::fs::write(&target, text).map_err(|error| error.to_string())
        });
        writer.save("state");
        // Time for a first, failing attempt.
        sleep(Duration::from_millis(20)).await;
        assert!(!path.exists());
        std::fs::create_dir(dir.path().join("missing")).unwrap();
        let saved = async {
            while !path.exists() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), saved).await.unwrap();
        writer.finish().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "state");
    }
}

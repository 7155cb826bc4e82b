//! Waiting, but not forever.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Waits until the condition is true, and returns how long that took.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !in_time(condition()).await {
        assert!(start.elapsed() < TIMEOUT, "not within {TIMEOUT:?}");
        sleep(POLL_INTERVAL).await;
    }
    start.elapsed()
}

/// The result of a future, which must come within [`TIMEOUT`].
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, future).await.expect("in time")
}

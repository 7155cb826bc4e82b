use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `condition` is true and returns the time that it took; an error after `timeout`.
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= timeout {
            bail!("the condition was not met within {timeout:?}");
        }
        sleep(POLL_INTERVAL);
    }
}

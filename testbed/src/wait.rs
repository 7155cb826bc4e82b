use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds and returns how long that took; an error once `timeout` has
/// passed.
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= timeout {
            bail!("what was waited for did not come about within {timeout:?}");
        }
        sleep(POLL);
    }
}

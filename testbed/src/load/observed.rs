//! What one edge of the load observes; its session writes it, scenarios read it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cframe_pki::Serial;
use cframe_protocol::v1::{Desired, Version};

#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<Details>);

#[derive(Debug, Default)]
pub(super) struct Details {
    pub(super) connected: bool,
    /// Sessions so far.
    pub(super) sessions: u64,
    /// Updates applied so far.
    pub(super) updates: u64,
    /// Bytes received on the sessions' streams; only followers count them.
    pub(super) bytes: u64,
    /// Reports of problems sent so far.
    pub(super) problems: u64,
    /// The version applied last, and when.
    pub(super) applied: Option<(Version, Instant)>,
    /// The whole state; followers have none.
    pub(super) state: Option<Arc<Desired>>,
    /// Certificates that the edge knows to be denied.
    pub(super) denied: BTreeSet<Serial>,
    /// Why the last session ended.
    pub(super) ended: String,
}

impl Observed {
    pub(super) fn lock(&self) -> MutexGuard<'_, Details> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record_connected(&self) {
        let mut details = self.lock();
        details.connected = true;
        details.sessions += 1;
    }

    pub(super) fn record_disconnected(&self, reason: String) {
        let mut details = self.lock();
        details.connected = false;
        details.ended = reason;
    }

    pub(super) fn record_applied(&self, version: Version) {
        let mut details = self.lock();
        details.updates += 1;
        details.applied = Some((version, Instant::now()));
    }
}

//! Encoded updates for edges, made once for each namespace and pair of versions, and shared by its sessions.
//!
//! A snapshot costs as much as the namespace is large. So one is stored, and an edge that has nothing gets it and then
//! the changes since. A new one is made when many changes have accumulated, or when trust has changed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Instant,
};

use bytes::Bytes;
use cframe_pki::identity::Label;
use cframe_protocol::{
    desired,
    frame::{self, TooLarge},
    v1::{Change, Desired, Version},
};
use tokio::sync::watch;

use crate::model::State;

mod pace;
#[cfg(test)]
mod tests;

pub(crate) use pace::DeferredUpdates;
use pace::Pace;

/// Differences stored for one version: sessions acknowledge at different times.
const MAX_DIFFERENCES: usize = 64;
/// A snapshot is used until one in so many of its entries has changed,
const SNAPSHOT_SHARE: usize = 8;
/// and for at least this many changes.
const SNAPSHOT_MIN: usize = 16;

/// One namespace's updates. The channel of versions closes when the namespace is removed.
#[derive(Debug)]
pub struct Feed {
    newest: watch::Sender<Version>,
    pace: Mutex<Pace>,
    cache: Mutex<Cache>,
}

/// Encoded updates from one version to another.
#[derive(Debug)]
pub struct Frames {
    /// `None` is the empty state.
    pub from: Option<Version>,
    pub to: Version,
    pub frames: Vec<Bytes>,
}

#[derive(Debug, Default)]
struct Cache {
    to: Version,
    differences: HashMap<Version, Arc<Frames>>,
    snapshot: Option<Snapshot>,
    encoded: Encoded,
}

#[derive(Debug)]
struct Snapshot {
    frames: Arc<Frames>,
    changes: usize,
}

/// How often something was encoded, for tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encoded {
    pub snapshots: u64,
    pub differences: u64,
}

/// What has to be encoded.
enum Work {
    Difference(Version, Vec<Change>),
    Snapshot(Box<Desired>),
}

impl Feed {
    pub fn new(version: Version) -> Self {
        Self { newest: watch::channel(version).0, pace: Mutex::default(), cache: Mutex::default() }
    }

    /// Announces a version, unless there were many in a short time: then it returns when to
    /// [`announce`](Self::announce) the newest version instead.
    pub fn announce_or_defer(&self, version: Version, now: Instant) -> Option<Instant> {
        let edges = self.newest.receiver_count();
        let due = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(now, edges);
        if due.is_none() {
            self.announce(version);
        }
        due
    }

    /// Announces a version to the sessions at once.
    pub fn announce(&self, version: Version) {
        self.newest.send_if_modified(|newest| {
            let changed = *newest != version;
            *newest = version;
            changed
        });
    }

    /// The newest announced version, and later ones.
    pub fn subscribe(&self) -> watch::Receiver<Version> {
        self.newest.subscribe()
    }

    pub fn encoded(&self) -> Encoded {
        self.cache().encoded
    }

    /// Updates from `have` to the newest state, or to an intermediate one, from which the next call continues. `None` if
    /// the namespace was removed.
    pub fn frames(
        &self,
        state: &RwLock<State>,
        namespace: &Label,
        have: Option<Version>,
    ) -> Result<Option<Arc<Frames>>, TooLarge> {
        // Locked while encoding: when a thousand sessions wake at once, one of them does the work.
        let mut cache = self.cache();
        let work = {
            let state = state.read().unwrap_or_else(PoisonError::into_inner);
            let Some(to) = state.version(namespace) else { return Ok(None) };
            cache.set_version(to);
            match cache.find(&state, namespace, have) {
                Some(frames) => return Ok(Some(frames)),
                None => work(&state, namespace, have),
            }
        };
        cache.encode(work).map(Some)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies what encoding needs, so that the state is not locked meanwhile.
fn work(state: &State, namespace: &Label, have: Option<Version>) -> Work {
    let log = state.namespaces.get(namespace).map(|space| &space.log);
    let changes = have.and_then(|have| Some((have, log?.since(have)?)));
    match changes {
        Some((have, changes)) => Work::Difference(have, changes),
        None => Work::Snapshot(Box::new(state.desired(namespace).unwrap_or_default())),
    }
}

impl Cache {
    fn set_version(&mut self, to: Version) {
        if self.to != to || self.differences.len() >= MAX_DIFFERENCES {
            self.to = to;
            self.differences.clear();
        }
    }

    fn find(&self, state: &State, namespace: &Label, have: Option<Version>) -> Option<Arc<Frames>> {
        let log = &state.namespaces.get(namespace)?.log;
        if let Some(have) = have.filter(|have| log.has(*have)) {
            return self.differences.get(&have).cloned();
        }
        let Snapshot { frames, changes } = self.snapshot.as_ref()?;
        // An edge never goes back to an older version.
        let forward = have.is_none_or(|have| frames.to.at_least(&have));
        let behind = log.changes_since(frames.to)?;
        (forward && behind <= SNAPSHOT_MIN.max(changes / SNAPSHOT_SHARE))
            .then(|| Arc::clone(frames))
    }

    fn encode(&mut self, work: Work) -> Result<Arc<Frames>, TooLarge> {
        match work {
            Work::Difference(from, changes) => {
                let frames = Arc::new(encode(Some(from), self.to, changes)?);
                self.encoded.differences += 1;
                self.differences.insert(from, Arc::clone(&frames));
                Ok(frames)
            }
            Work::Snapshot(desired) => {
                let changes = Desired::default().diff(&desired);
                let count = changes.len();
                let frames = Arc::new(encode(None, self.to, changes)?);
                self.encoded.snapshots += 1;
                self.snapshot = Some(Snapshot { frames: Arc::clone(&frames), changes: count });
                Ok(frames)
            }
        }
    }
}

fn encode(from: Option<Version>, to: Version, changes: Vec<Change>) -> Result<Frames, TooLarge> {
    let updates = desired::updates(from, to, changes);
    let frames = updates.map(|update| frame::encode(&update)).collect::<Result<_, _>>()?;
    Ok(Frames { from, to, frames })
}

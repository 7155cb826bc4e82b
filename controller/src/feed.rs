//! What edges are sent: made once for each namespace and pair of versions, and shared by their sessions.
//!
//! A snapshot costs what exists. So one is kept, and an edge that has nothing is sent that and then what has changed
//! since; another is made when that has become much of it, or when anybody's trust has changed. Over many edits, each costs what it changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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

use pace::Pace;
pub(crate) use pace::PutOff;

/// Differences kept besides each other for one version: sessions acknowledge at different times.
const KEPT: usize = 64;
/// A snapshot is used until so much of it has changed: one in so many…
const OUTDATED: usize = 8;
/// …but for the first few.
const FEW: usize = 16;

/// Where the sessions of a namespace hear of new versions. The channel closes with the namespace.
#[derive(Debug)]
pub struct Feed {
    newest: watch::Sender<Version>,
    pace: Mutex<Pace>,
    cache: Mutex<Cache>,
}

/// Encoded updates from one version to another.
#[derive(Debug)]
pub struct Frames {
    /// What they lead on from; `None` is the empty state.
    pub from: Option<Version>,
    /// What they lead to.
    pub to: Version,
    /// The frames, in order.
    pub frames: Vec<Bytes>,
}

#[derive(Debug, Default)]
struct Cache {
    to: Version,
    differences: HashMap<Version, Arc<Frames>>,
    snapshot: Option<Snapshot>,
    /// Times that anything was encoded.
    made: Made,
}

#[derive(Debug)]
struct Snapshot {
    frames: Arc<Frames>,
    changes: usize,
}

/// How often something was encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    /// Snapshots.
    pub snapshots: u64,
    /// Differences.
    pub differences: u64,
}

/// What is to be encoded.
enum Work {
    Difference(Version, Vec<Change>),
    Snapshot(Box<Desired>),
}

impl Feed {
    /// A feed at a version.
    pub fn new(version: Version) -> Self {
        Self { newest: watch::channel(version).0, pace: Mutex::default(), cache: Mutex::default() }
    }

    /// Tells the sessions, unless they have been told often of late: then it says when to do so by
    /// [`announce`](Self::announce), and what happens until then is in the same update.
    pub fn offer(&self, version: Version, now: Instant) -> Option<Instant> {
        let edges = self.newest.receiver_count();
        let due = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(now, edges);
        if due.is_none() {
            self.announce(version);
        }
        due
    }

    /// Tells the sessions at once.
    pub fn announce(&self, version: Version) {
        self.newest.send_if_modified(|newest| {
            let changed = *newest != version;
            *newest = version;
            changed
        });
    }

    /// The newest version that was announced, and word of later ones.
    pub fn subscribe(&self) -> watch::Receiver<Version> {
        self.newest.subscribe()
    }

    /// How often something was encoded so far.
    pub fn made(&self) -> Made {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).made
    }

    /// Updates that take an edge from `have` to the newest state, or to one from which the next will. `None` if the
    /// namespace is gone.
    ///
    /// # Errors
    /// If one change alone is too large for a frame.
    pub fn frames(
        &self,
        state: &std::sync::RwLock<State>,
        namespace: &Label,
        have: Option<Version>,
    ) -> Result<Option<Arc<Frames>>, TooLarge> {
        // Held while encoding: of a thousand sessions that wake at once, one does the work.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let work = {
            let state = state.read().unwrap_or_else(PoisonError::into_inner);
            let Some(to) = state.version(namespace) else { return Ok(None) };
            cache.at(to);
            match cache.made_already(&state, namespace, have) {
                Some(frames) => return Ok(Some(frames)),
                None => to_do(&state, namespace, have),
            }
        };
        cache.make(work).map(Some)
    }
}

/// Taken while the state is looked at; encoding needs it no more.
fn to_do(state: &State, namespace: &Label, have: Option<Version>) -> Work {
    let log = state.namespaces.get(namespace).map(|space| &space.log);
    let changes = have.and_then(|have| Some((have, log?.since(have)?)));
    match changes {
        Some((have, changes)) => Work::Difference(have, changes),
        None => Work::Snapshot(Box::new(state.desired(namespace).unwrap_or_default())),
    }
}

impl Cache {
    fn at(&mut self, to: Version) {
        if self.to != to || self.differences.len() >= KEPT {
            self.to = to;
            self.differences.clear();
        }
    }

    fn made_already(
        &self,
        state: &State,
        namespace: &Label,
        have: Option<Version>,
    ) -> Option<Arc<Frames>> {
        let log = &state.namespaces.get(namespace)?.log;
        if let Some(have) = have.filter(|have| log.has(*have)) {
            return self.differences.get(&have).cloned();
        }
        let Snapshot { frames, changes } = self.snapshot.as_ref()?;
        // Never back, not on the way forward either.
        let forward = have.is_none_or(|have| frames.to.at_least(&have));
        let behind = log.behind(frames.to)?;
        (forward && behind <= FEW.max(changes / OUTDATED)).then(|| Arc::clone(frames))
    }

    fn make(&mut self, work: Work) -> Result<Arc<Frames>, TooLarge> {
        match work {
            Work::Difference(from, changes) => {
                let frames = Arc::new(encode(Some(from), self.to, changes)?);
                self.made.differences += 1;
                self.differences.insert(from, Arc::clone(&frames));
                Ok(frames)
            }
            Work::Snapshot(desired) => {
                let changes = Desired::default().diff(&desired);
                let count = changes.len();
                let frames = Arc::new(encode(None, self.to, changes)?);
                self.made.snapshots += 1;
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

//! What edges are sent: made once for each namespace and pair of versions, and shared by their sessions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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

/// Differences kept besides each other for one version: sessions acknowledge at different times.
const KEPT: usize = 64;

/// Where the sessions of a namespace hear of new versions. The channel closes with the namespace.
#[derive(Debug)]
pub struct Feed {
    newest: watch::Sender<Version>,
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
    by_start: HashMap<Option<Version>, Arc<Frames>>,
}

impl Feed {
    /// A feed at a version.
    pub fn new(version: Version) -> Self {
        Self { newest: watch::channel(version).0, cache: Mutex::default() }
    }

    /// Tells the sessions.
    pub fn announce(&self, version: Version) {
        self.newest.send_if_modified(|newest| {
            let changed = *newest != version;
            *newest = version;
            changed
        });
    }

    /// The newest version, and word of later ones.
    pub fn subscribe(&self) -> watch::Receiver<Version> {
        self.newest.subscribe()
    }

    /// The updates that take an edge from `have` to the newest state. `None` if the namespace is gone.
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
        let (to, from, changes) = {
            let state = state.read().unwrap_or_else(PoisonError::into_inner);
            let Some(to) = state.version(namespace) else { return Ok(None) };
            if cache.to != to || cache.by_start.len() >= KEPT {
                *cache = Cache { to, by_start: HashMap::new() };
            }
            if let Some(frames) = cache.by_start.get(&have) {
                return Ok(Some(Arc::clone(frames)));
            }
            match changes_since(&state, namespace, have) {
                Some(changes) => (to, have, changes),
                None => {
                    if let Some(frames) = cache.by_start.get(&None) {
                        return Ok(Some(Arc::clone(frames)));
                    }
                    let desired = state.desired(namespace).unwrap_or_default();
                    (to, None, Desired::default().diff(&desired))
                }
            }
        };
        let frames = desired::updates(from, to, changes)
            .map(|update| frame::encode(&update))
            .collect::<Result<_, _>>()?;
        let frames = Arc::new(Frames { from, to, frames });
        cache.by_start.insert(from, Arc::clone(&frames));
        Ok(Some(frames))
    }
}

fn changes_since(state: &State, namespace: &Label, have: Option<Version>) -> Option<Vec<Change>> {
    state.namespaces.get(namespace)?.log.since(have?)
}

//! Putting updates together.

use std::sync::Arc;

use ipnet::IpNet;

use crate::v1::{Change, Desired, Update, Version};

/// Edges that a desired state may have.
pub const MAX_EDGES: usize = 16_384;
/// Prefixes that a desired state may have.
pub const MAX_PREFIXES: usize = 524_288;
/// Controllers, and endpoints of one edge, that a desired state may have.
pub const MAX_ENDPOINTS: usize = 64;
/// Denials that a desired state may have.
pub const MAX_DENIED: usize = 131_072;

/// A longer delta is handed out as a snapshot: comparing the whole states costs no more.
const MAX_DELTA: usize = 8_192;

/// Holds the newest whole state and the pieces of the next one. What it has handed out doesn't
/// change, and a state appears only when it is whole.
#[derive(Debug, Default)]
pub struct Assembler {
    current: Option<Arc<Desired>>,
    pending: Option<Pending>,
}

/// A state on its way.
#[derive(Debug)]
struct Pending {
    from: Option<Version>,
    to: Version,
    state: Desired,
    /// The changes so far, unless they start from the empty state or are too many.
    delta: Option<Delta>,
}

/// A whole state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The state.
    pub state: Arc<Desired>,
    /// How it differs from the state before; `None` for a snapshot.
    pub delta: Option<Delta>,
}

/// The changes that led from one whole state to another, in the order in which they were sent. One thing may change
/// more than once; [`Desired::diff_within`] has the difference that remains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The version before the changes.
    pub from: Version,
    /// At most a few thousand.
    pub changes: Vec<Change>,
}

impl Delta {
    /// With the changes that follow, unless they are too many.
    #[must_use]
    pub(crate) fn then(mut self, next: Vec<Change>) -> Option<Self> {
        self.changes.extend(next);
        (self.changes.len() <= MAX_DELTA).then_some(self)
    }
}

/// An update that must not be followed. The session it came in is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is for another state than the one that is here.
    #[error("the update is for version {}, here is {}", shown(.from), shown(.have))]
    From {
        /// What it is for.
        from: Option<Version>,
        /// What is here.
        have: Option<Version>,
    },
    /// It leads to an older state.
    #[error("the update leads back from version {have} to {to}")]
    Older {
        /// What is here.
        have: Version,
        /// Where it leads.
        to: Version,
    },
    /// It begins before the update before it had its last piece.
    #[error("an update to version {to} begins before the one to {pending} has ended")]
    Interleaved {
        /// The unfinished one's version.
        pending: Version,
        /// The new one's.
        to: Version,
    },
    /// A prefix has bits set behind its length.
    #[error("{0} has host bits set")]
    HostBits(IpNet),
    /// The state grows beyond what an edge holds.
    #[error("the state has more than {max} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

fn shown(version: &Option<Version>) -> String {
    version.map_or_else(|| "none".into(), |version| version.to_string())
}

impl Assembler {
    /// Begins with a state, such as the last one kept on disk, or with none.
    pub fn new(current: Option<Arc<Desired>>) -> Self {
        Self { current, pending: None }
    }

    /// The newest whole state.
    pub fn current(&self) -> Option<&Arc<Desired>> {
        self.current.as_ref()
    }

    /// The version of the newest whole state.
    pub fn version(&self) -> Option<Version> {
        self.current.as_ref().map(|state| state.version)
    }

    /// Forgets the pieces of an unfinished update: the session that they came in has ended.
    pub fn reset(&mut self) {
        self.pending = None;
    }

    /// Takes the next piece. With the last one of an update the new state is whole and returned.
    ///
    /// # Errors
    /// When the update is for another state, leads back, or is more than is held. The pieces are
    /// forgotten then, and the whole state stays as it was.
    pub fn push(&mut self, update: Update) -> Result<Option<Assembled>, Refused> {
        let mut pending = self.pending_for(&update)?;
        if let Some(delta) = pending.delta.take() {
            pending.delta = delta.then(update.changes.clone());
        }
        for change in update.changes {
            check(&change)?;
            pending.state.apply(change);
        }
        bound(&pending.state)?;
        if !update.last {
            self.pending = Some(pending);
            return Ok(None);
        }
        pending.state.version = pending.to;
        let state = Arc::new(pending.state);
        self.current = Some(Arc::clone(&state));
        Ok(Some(Assembled { state, delta: pending.delta }))
    }

    /// What the piece is added to.
    fn pending_for(&mut self, update: &Update) -> Result<Pending, Refused> {
        if let Some(pending) = self.pending.take() {
            if (pending.from, pending.to) != (update.from, update.to) {
                return Err(Refused::Interleaved { pending: pending.to, to: update.to });
            }
            return Ok(pending);
        }
        let have = self.version();
        if let Some(have) = have.filter(|have| !update.to.at_least(have)) {
            return Err(Refused::Older { have, to: update.to });
        }
        let state = match (update.from, &self.current) {
            (None, _) => Desired::default(),
            (Some(from), Some(current)) if from == current.version => Desired::clone(current),
            (from, _) => return Err(Refused::From { from, have }),
        };
        let delta = update.from.map(|from| Delta { from, changes: Vec::new() });
        Ok(Pending { from: update.from, to: update.to, state, delta })
    }
}

fn check(change: &Change) -> Result<(), Refused> {
    match change {
        Change::Prefix { net, .. } if *net != net.trunc() => Err(Refused::HostBits(*net)),
        Change::Controllers(all) => limit("controllers", all.len(), MAX_ENDPOINTS),
        Change::Edge { state, .. } => limit("endpoints", state.endpoints.len(), MAX_ENDPOINTS),
        Change::Settings(_)
        | Change::Trust(_)
        | Change::Denied(_)
        | Change::NotDenied(_)
        | Change::EdgeGone { .. }
        | Change::Prefix { .. }
        | Change::PrefixGone { .. } => Ok(()),
    }
}

/// After each piece, which is small: the state is never far beyond its bounds.
fn bound(state: &Desired) -> Result<(), Refused> {
    limit("edges", state.edges.len(), MAX_EDGES)?;
    limit("prefixes", state.prefixes.len(), MAX_PREFIXES)?;
    limit("denials", state.denied.len(), MAX_DENIED)
}

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), Refused> {
    if count > max {
        return Err(Refused::TooMuch { what, max });
    }
    Ok(())
}

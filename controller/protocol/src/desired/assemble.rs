//! Assembling updates to states.

use std::sync::Arc;

use ipnet::IpNet;

use crate::v1::{Change, Desired, Update, Version};

/// Per desired state.
pub const MAX_EDGES: usize = 16_384;
/// Per desired state.
pub const MAX_PREFIXES: usize = 524_288;
/// Controllers per desired state, and endpoints per edge.
pub const MAX_ENDPOINTS: usize = 64;
/// Entries of the deny-list per desired state.
pub const MAX_DENIED: usize = 131_072;

/// A longer delta is handed out as a snapshot: comparing the whole states costs no more.
const MAX_DELTA: usize = 8_192;

/// The newest whole state, and the pieces of the next one. States that it has returned don't change.
#[derive(Debug, Default)]
pub struct Assembler {
    current: Option<Arc<Desired>>,
    pending: Option<Pending>,
}

/// A state whose last piece has not arrived.
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

/// Why an update is refused. The session must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the update is for version {}, this edge has {}", shown(.from), shown(.have))]
    From { from: Option<Version>, have: Option<Version> },
    #[error("the update goes back from version {have} to {to}")]
    Older { have: Version, to: Version },
    /// It starts before the last piece of the previous update.
    #[error("an update to version {to} starts before the one to {pending} is complete")]
    Interleaved { pending: Version, to: Version },
    #[error("{0} has host bits set")]
    HostBits(IpNet),
    /// The state exceeds a limit.
    #[error("the state has more than {max} {what}")]
    TooMuch { what: &'static str, max: usize },
}

fn shown(version: &Option<Version>) -> String {
    version.map_or_else(|| "none".into(), |version| version.to_string())
}

impl Assembler {
    /// Starts with a state, such as the last one saved to disk, or without one.
    pub fn new(current: Option<Arc<Desired>>) -> Self {
        Self { current, pending: None }
    }

    pub fn current(&self) -> Option<&Arc<Desired>> {
        self.current.as_ref()
    }

    pub fn version(&self) -> Option<Version> {
        self.current.as_ref().map(|state| state.version)
    }

    /// Drops the pieces of an incomplete update, when its session has ended.
    pub fn reset(&mut self) {
        self.pending = None;
    }

    /// Adds the next piece. After the last one of an update, returns the new state, with the changes that led
    /// to it from the state before unless it came as a snapshot. After an error the pieces are dropped, and the
    /// current state stays.
    pub fn push(&mut self, update: Update) -> Result<Option<Assembled>, Refused> {
        let mut pending = self.pending_for(&update)?;
        if let Some(delta) = pending.delta.take() {
            pending.delta = delta.then(update.changes.clone());
        }
        for change in update.changes {
            check_change(&change)?;
            pending.state.apply(change);
        }
        check_limits(&pending.state)?;
        if !update.last {
            self.pending = Some(pending);
            return Ok(None);
        }
        pending.state.version = pending.to;
        let state = Arc::new(pending.state);
        self.current = Some(Arc::clone(&state));
        Ok(Some(Assembled { state, delta: pending.delta }))
    }

    /// The state that the piece is added to.
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

fn check_change(change: &Change) -> Result<(), Refused> {
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

/// Pieces are small, so a check after each keeps the state near its limits.
fn check_limits(state: &Desired) -> Result<(), Refused> {
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

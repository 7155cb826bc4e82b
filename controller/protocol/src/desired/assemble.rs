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

/// Holds the newest whole state and the pieces of the next one. What it has handed out doesn't
/// change, and a state appears only when it is whole.
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

    /// Takes the next piece. With the last one of an update the new state is whole and returned.
    ///
    /// # Errors
    /// When the update is for another state, leads back, or is more than is held. The pieces are
    /// forgotten then, and the whole state stays as it was.
    pub fn push(&mut self, update: Update) -> Result<Option<Arc<Desired>>, Refused> {
        let mut pending = self.pending_for(&update)?;
        for change in update.changes {
            check(&change)?;
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
        Ok(Some(state))
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
        Ok(Pending { from: update.from, to: update.to, state })
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

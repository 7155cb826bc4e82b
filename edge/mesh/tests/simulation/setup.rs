//! The parameters of a run.

use std::sync::Arc;

use crate::identities::Identities;

/// What distinguishes one run from another.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) identities: Arc<Identities>,
    pub(crate) protection: Protection,
    pub(crate) seed: u64,
    pub(crate) sabotage: Option<Sabotage>,
    /// Whether to print what happens.
    pub(crate) verbose: bool,
}

/// What protects the links of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protection {
    Null,
    Tls,
}

/// A fault in the simulation itself, to test that the checks find it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sabotage {
    /// Writes to a TUN are repeated.
    Duplicate,
    /// Writes to a TUN are swapped.
    Reorder,
    /// A write to one edge's TUN goes to another's.
    Misdeliver,
    /// One byte of each write is changed.
    Corrupt,
    /// Cores believe an edge that claims another's addresses.
    BelieveClaims,
    /// Cores get no revocations.
    IgnoreRevocations,
    /// Cuts of the wire are never repaired.
    NeverRepair,
}

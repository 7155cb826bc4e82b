//! Versions of desired state.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The revisions of the store that a desired state was made from. As text: `epoch.mesh.namespace`.
///
/// Versions are partially ordered: see [`Version::at_least`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// When the store was made, in Unix milliseconds. A restore or migration makes a new store, whose
    /// revisions start again.
    pub epoch: u64,
    /// Revision of what concerns all namespaces: trust, controllers.
    pub mesh: u64,
    /// Revision of the namespace.
    pub namespace: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version: expected EPOCH.MESH.NAMESPACE, three whole numbers")]
pub struct ParseVersionError(String);

impl Version {
    /// Whether this is `other` or newer: of a later epoch, or of the same epoch with neither revision
    /// older. Of two versions, neither may be at least the other.
    pub fn at_least(&self, other: &Self) -> bool {
        let in_epoch = self.mesh >= other.mesh && self.namespace >= other.namespace;
        self.epoch > other.epoch || (self.epoch == other.epoch && in_epoch)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.mesh, self.namespace)
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseVersionError(text.chars().take(80).collect());
        let mut numbers = text.split('.').map(|part| part.parse::<u64>());
        let mut next = || numbers.next()?.ok();
        let version = (|| Some(Self { epoch: next()?, mesh: next()?, namespace: next()? }))();
        match numbers.next() {
            None => version.ok_or_else(error),
            Some(_) => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(epoch: u64, mesh: u64, namespace: u64) -> Version {
        Version { epoch, mesh, namespace }
    }

    #[test]
    fn a_later_epoch_is_newer_whatever_the_revisions() {
        assert!(version(2, 0, 0).at_least(&version(1, 9, 9)));
        assert!(!version(1, 9, 9).at_least(&version(2, 0, 0)));
    }

    #[test]
    fn in_one_epoch_neither_revision_may_be_older() {
        assert!(version(1, 2, 2).at_least(&version(1, 2, 2)));
        assert!(version(1, 2, 3).at_least(&version(1, 2, 2)));
        assert!(!version(1, 3, 1).at_least(&version(1, 2, 2)));
        assert!(!version(1, 2, 2).at_least(&version(1, 3, 1)));
    }

    #[test]
    fn text_and_back() {
        let v = version(1_763_000_000_000, 4, 17);
        assert_eq!(v.to_string(), "1763000000000.4.17");
        assert_eq!(v.to_string().parse(), Ok(v));
        for wrong in ["", "1.2", "1.2.3.4", "1.2.x", "1..3", "-1.2.3"] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }
}

use cframe_store::{ReadError, Revision, WatchError};
use thiserror::Error;

use crate::model::LoadError;

/// Why the store's watch is started again.
#[derive(Debug, Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "the store is at revision {listed}, but {applied} was seen: it has lost writes, or was restored by other \
         means than `cframe-controller restore`; nothing is taken from it"
    )]
    Back { applied: Revision, listed: Revision },
    #[error("{0} records in memory differ from the store")]
    Different(usize),
    #[error("the watch does not report a write that the store has taken")]
    Late,
    #[error("a bug of this program: {0}")]
    Bug(String),
}

//! What an error of etcd means for the call that got it.

use std::{error::Error as _, io};

use etcd_client::Error;

use crate::CommitError;

/// What became of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It did not happen, and may work elsewhere or later.
    NotDone,
    /// It did not happen, and with new credentials may work here.
    Stale,
    /// It did not happen, and would not elsewhere: a password or a right is missing.
    Denied,
    /// It did not happen: etcd is over its quota.
    Full,
    /// It did not happen: it is larger than etcd takes.
    TooLarge,
    /// It did not happen: the revision is not kept any more.
    Compacted,
    /// It did not happen: the lease has expired.
    NoLease,
    /// It may have happened.
    Unknown,
}

/// A failed call.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) fate: Fate,
    /// For people, one line.
    pub(super) text: String,
}

impl Fault {
    /// What it means for a write.
    pub(super) fn into_commit(self) -> CommitError {
        match self.fate {
            Fate::Full => CommitError::Full(self.text),
            Fate::TooLarge => CommitError::TooLarge(self.text),
            Fate::NotDone
            | Fate::Stale
            | Fate::Denied
            | Fate::Compacted
            | Fate::NoLease
            | Fate::Unknown => CommitError::Unavailable(self.text),
        }
    }
}

/// gRPC's codes, <https://grpc.io/docs/guides/status-codes/>.
mod code {
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

const NO_LEADER: &str = "no leader";

/// What etcd says (etcd's api/v3rpc/rpctypes/error.go), as far as it tells that nothing was done.
const WORDS: [(&str, Fate); 16] = [
    (NO_LEADER, Fate::NotDone),
    ("too many requests", Fate::NotDone),
    ("not capable", Fate::NotDone),
    ("database space exceeded", Fate::Full),
    ("request is too large", Fate::TooLarge),
    ("received message larger than max", Fate::TooLarge),
    // This side's own word (tonic).
    ("decoded message length too large", Fate::TooLarge),
    ("too many operations in txn", Fate::TooLarge),
    ("revision has been compacted", Fate::Compacted),
    ("lease not found", Fate::NoLease),
    ("invalid auth token", Fate::Stale),
    ("auth store is old", Fate::Stale),
    ("user name is empty", Fate::Denied),
    ("user name not found", Fate::Denied),
    ("invalid user ID or password", Fate::Denied),
    ("permission denied", Fate::Denied),
];

impl Fault {
    pub(super) fn of(endpoint: &str, error: &Error) -> Self {
        let text = |what: &str| format!("etcd at {endpoint}: {what}");
        let status = match error {
            Error::GRpcStatus(status) => status,
            Error::TransportError(error) => {
                return Self { fate: of_causes(Some(error)), text: text(&chain(error)) };
            }
            Error::LeaseKeepAliveError(what) => {
                return Self { fate: by_words(what).unwrap_or(Fate::Unknown), text: text(what) };
            }
            Error::InvalidArgs(_)
            | Error::InvalidUri(_)
            | Error::IoError(_)
            | Error::WatchError(_)
            | Error::Utf8Error(_)
            | Error::ElectError(_)
            | Error::InvalidMetadataValue(_)
            | Error::EndpointError(_)
            | Error::EndpointsNotManaged
            | Error::Internal(_) => {
                return Self { fate: Fate::Unknown, text: text(&error.to_string()) };
            }
        };
        let said = status.message();
        let fate = by_words(said).unwrap_or_else(|| match i32::from(status.code()) {
            code::PERMISSION_DENIED => Fate::Denied,
            code::UNAUTHENTICATED => Fate::Stale,
            _ => of_causes(status.source()),
        });
        let causes = status.source().map(chain).unwrap_or_default();
        let shown = match (said.strip_prefix("etcdserver: ").unwrap_or(said), causes) {
            (said, causes) if causes.is_empty() || causes.contains(said) && said.is_empty() => {
                said.to_owned()
            }
            (said, causes) if said.is_empty() || causes.starts_with(said) => causes,
            (said, causes) => format!("{said}: {causes}"),
        };
        let shown = if shown.is_empty() { format!("{:?}", status.code()) } else { shown };
        Self { fate, text: text(&shown) }
    }

    /// No answer in time.
    pub(super) fn silent(endpoint: &str) -> Self {
        Self { fate: Fate::Unknown, text: format!("etcd at {endpoint} does not answer") }
    }

    /// Whether a member answered that it knows of no leader.
    pub(super) fn is_leaderless(&self) -> bool {
        self.text.contains(NO_LEADER)
    }

    /// Whether another try, at another member, can help a call that may be made twice.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.fate, Fate::NotDone | Fate::Stale | Fate::Unknown)
    }
}

fn by_words(said: &str) -> Option<Fate> {
    WORDS.iter().find(|(words, _)| said.contains(words)).map(|(_, fate)| *fate)
}

/// A connection that was never made carried nothing.
fn of_causes(mut cause: Option<&(dyn std::error::Error + 'static)>) -> Fate {
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let unmade = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            );
            return if unmade { Fate::NotDone } else { Fate::Unknown };
        }
        cause = error.source();
    }
    Fate::Unknown
}

/// The causes that say something new, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut shown = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !shown.contains(&text) {
            shown = format!("{shown}: {text}");
        }
        cause = error.source();
    }
    shown.replace('\n', " ")
}

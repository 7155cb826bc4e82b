//! What an error of etcd means for the call.

use std::{error::Error as _, io};

use etcd_client::Error;

use crate::CommitError;

/// What happened to a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It did not happen, and may work at another member or later.
    NotDone,
    /// It did not happen, and may work here with a new token.
    Stale,
    /// It did not happen, and would not elsewhere: a password or a permission is missing.
    Denied,
    /// It did not happen: etcd is over its quota.
    Full,
    /// It did not happen: it is too large for etcd.
    TooLarge,
    /// It did not happen: the revision was compacted.
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
    /// For logs and messages, one line.
    pub(super) text: String,
}

impl Fault {
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

/// Texts of etcd's errors (api/v3rpc/rpctypes/error.go) from which the fate is known.
const TEXTS: [(&str, Fate); 16] = [
    (NO_LEADER, Fate::NotDone),
    ("too many requests", Fate::NotDone),
    ("not capable", Fate::NotDone),
    ("database space exceeded", Fate::Full),
    ("request is too large", Fate::TooLarge),
    ("received message larger than max", Fate::TooLarge),
    // From tonic, on this side.
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
    pub(super) fn new(endpoint: &str, error: &Error) -> Self {
        let text = |what: &str| format!("etcd at {endpoint}: {what}");
        let status = match error {
            Error::GRpcStatus(status) => status,
            Error::TransportError(error) => {
                return Self { fate: fate_of_causes(Some(error)), text: text(&chain(error)) };
            }
            Error::LeaseKeepAliveError(what) => {
                return Self { fate: by_text(what).unwrap_or(Fate::Unknown), text: text(what) };
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
        let message = status.message();
        let fate = by_text(message).unwrap_or_else(|| match i32::from(status.code()) {
            code::PERMISSION_DENIED => Fate::Denied,
            code::UNAUTHENTICATED => Fate::Stale,
            _ => fate_of_causes(status.source()),
        });
        let causes = status.source().map(chain).unwrap_or_default();
        let shown = match (message.strip_prefix("etcdserver: ").unwrap_or(message), causes) {
            (message, causes)
                if causes.is_empty() || causes.contains(message) && message.is_empty() =>
            {
                message.to_owned()
            }
            (message, causes) if message.is_empty() || causes.starts_with(message) => causes,
            (message, causes) => format!("{message}: {causes}"),
        };
        let shown = if shown.is_empty() { format!("{:?}", status.code()) } else { shown };
        Self { fate, text: text(&shown) }
    }

    /// There was no answer in time.
    pub(super) fn timed_out(endpoint: &str) -> Self {
        Self { fate: Fate::Unknown, text: format!("etcd at {endpoint} does not answer") }
    }

    /// Whether a member answered that it has no leader.
    pub(super) fn is_leaderless(&self) -> bool {
        self.text.contains(NO_LEADER)
    }

    /// Whether a call that may be repeated should be, at another member.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self.fate, Fate::NotDone | Fate::Stale | Fate::Unknown)
    }
}

fn by_text(message: &str) -> Option<Fate> {
    TEXTS.iter().find(|(text, _)| message.contains(text)).map(|(_, fate)| *fate)
}

/// Without a connection, nothing was sent.
fn fate_of_causes(mut cause: Option<&(dyn std::error::Error + 'static)>) -> Fate {
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let not_connected = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            );
            return if not_connected { Fate::NotDone } else { Fate::Unknown };
        }
        cause = error.source();
    }
    Fate::Unknown
}

/// The error and those of its causes that add something, on one line.
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

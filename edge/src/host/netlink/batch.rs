//! Changes of routes, many to a system call: one at a time they cost a wake-up each.

use std::time::Duration;

use futures_util::StreamExt as _;
use netlink_packet_route::{RouteNetlinkMessage, route::RouteMessage};
use rtnetlink::{
    packet_core::{
        ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    proto::{ConnectionHandle, new_connection},
    sys::{SocketAddr, protocols::NETLINK_ROUTE},
};
use rustix::io::Errno;
use tokio::{task::AbortHandle, time::timeout};

use super::{NetlinkError, bind, message};

/// Messages to a call. Their acknowledgements, of less than 1 KiB in the kernel's accounts, wait in a
/// socket buffer of 208 KiB by default; what doesn't fit there is lost.
pub(super) const SIZE: usize = 128;

/// After this an acknowledgement was lost. The kernel answers at once, once it has its lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// A netlink socket for batches. Its task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Batches {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    pub(super) port: u32,
    task: AbortHandle,
}

/// What is done to each route of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is made, in place of what is there.
    Put,
    /// It is deleted; nothing there is fine.
    Delete,
}

impl Batches {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) =
            new_connection(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        let port = bind(&mut connection)?;
        Ok(Self { handle, port, task: tokio::spawn(connection).abort_handle() })
    }

    pub(super) fn is_lost(&self) -> bool {
        self.task.is_finished()
    }

    /// Does all of them, [`SIZE`] at most, and returns the first refusal afterwards.
    pub(super) async fn run(
        &self,
        kind: Kind,
        messages: Vec<RouteMessage>,
    ) -> Result<(), NetlinkError> {
        let some = messages.into_iter().map(|message| request(kind, message)).collect::<Vec<_>>();
        let failed = |source| NetlinkError::Refused { what: "changing routes".to_owned(), source };
        let mut answers = self
            .handle
            .request_batch(some, SocketAddr::new(0, 0))
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let mut result = Ok(());
        let all = async {
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload {
                    result = std::mem::replace(&mut result, Ok(())).and(refusal(kind, &error));
                }
            }
        };
        if timeout(PATIENCE, all).await.is_err() {
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        // A socket that is lost ends the answers early.
        match self.is_lost() {
            true => Err(failed(std::io::ErrorKind::NotConnected.into())),
            false => result,
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn request(kind: Kind, message: RouteMessage) -> NetlinkMessage<RouteNetlinkMessage> {
    let (inner, flags) = match kind {
        Kind::Put => (RouteNetlinkMessage::NewRoute(message), NLM_F_REPLACE | NLM_F_CREATE),
        Kind::Delete => (RouteNetlinkMessage::DelRoute(message), 0),
    };
    let mut request = NetlinkMessage::from(inner);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    request
}

fn refusal(kind: Kind, error: &ErrorMessage) -> Result<(), NetlinkError> {
    if error.code.is_none() {
        return Ok(());
    }
    let source = error.to_io();
    match (kind, Errno::from_io_error(&source)) {
        (Kind::Delete, Some(Errno::SRCH | Errno::NOENT | Errno::NODEV)) => Ok(()),
        (Kind::Put, Some(Errno::ACCESS)) => {
            let what = format!("{} (disable_ipv6 is set for the device?)", named(error));
            Err(NetlinkError::Refused { what, source })
        }
        (Kind::Put, _) => Err(NetlinkError::Refused { what: named(error), source }),
        (Kind::Delete, _) => {
            Err(NetlinkError::Refused { what: format!("deleting {}", named(error)), source })
        }
    }
}

/// The route that an answer is about: the kernel sends the request back with it.
fn named(error: &ErrorMessage) -> String {
    let request = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&error.header);
    match request.map(|request| request.payload) {
        Ok(NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        )) => message::describe(&route),
        _ => "a route".to_owned(),
    }
}

//! Changes of routes, many per system call: one by one, each would cost a wake-up.

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

/// Messages per call. Their acknowledgements, for which the kernel accounts less than 1 KiB each, wait in
/// a socket buffer of 208 KiB by default, and what does not fit is lost.
const SIZE: usize = 128;

/// The kernel answers as soon as it has its lock. After this time an acknowledgement was lost.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// A netlink socket for batches. Its task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Batches {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    pub(super) port: u32,
    task: AbortHandle,
}

/// What to do with each route of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Adds it, or replaces the one at its key.
    Put,
    /// Deletes it, if it is there.
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

    /// Tries all of them, and returns the first refusal. Messages are made a batch at a time.
    pub(super) async fn run<T: Sync>(
        &self,
        kind: Kind,
        items: &[T],
        message: impl Fn(&T) -> Option<RouteMessage> + Send + Sync,
    ) -> Result<(), NetlinkError> {
        let mut result = Ok(());
        for some in items.chunks(SIZE) {
            let requests = some.iter().filter_map(&message).map(|message| request(kind, message));
            let requests = requests.collect();
            result = result.and(self.run_batch(kind, requests).await);
        }
        result
    }

    async fn run_batch(
        &self,
        kind: Kind,
        requests: Vec<NetlinkMessage<RouteNetlinkMessage>>,
    ) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError::Refused { what: "changing routes".to_owned(), source };
        let mut answers = self
            .handle
            .request_batch(requests, SocketAddr::new(0, 0))
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let mut result = Ok(());
        let all = async {
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload {
                    result = std::mem::replace(&mut result, Ok(())).and(refusal(kind, &error));
                }
            }
        };
        if timeout(ACK_TIMEOUT, all).await.is_err() {
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        // If the socket fails, the answers end early.
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
            let what = format!("{} (disable_ipv6 is set for the device?)", route_name(error));
            Err(NetlinkError::Refused { what, source })
        }
        (Kind::Put, _) => Err(NetlinkError::Refused { what: route_name(error), source }),
        (Kind::Delete, _) => {
            Err(NetlinkError::Refused { what: format!("deleting {}", route_name(error)), source })
        }
    }
}

/// The route that an answer is for: the kernel returns the request with its answer.
fn route_name(error: &ErrorMessage) -> String {
    let request = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&error.header);
    match request.map(|request| request.payload) {
        Ok(NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        )) => message::describe(&route),
        _ => "a route".to_owned(),
    }
}

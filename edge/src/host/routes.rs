//! The task that keeps the kernel's routes as intended: at every change, when the kernel reports that
//! another program has changed them, and on a timer.

mod bypass;
mod facts;
mod forwarding;
mod keeper;
mod underlay;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{netlink::NetlinkError, reconcile::HostNetworks};
use crate::{
    instance::{Instance, Mark},
    status::RouteStatus,
};
pub use facts::{Bypassed, ForwardingOff, Marked, Overlap, Reserved, RoutingFacts, WrongMtu};

/// Requests and events that wait.
const BACKLOG: usize = 32;

/// A handle to the task, which ends when it is cancelled or all handles are dropped.
#[derive(Clone, Debug)]
pub struct Routes {
    requests: mpsc::Sender<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The way to a peer has changed, or the address that was used for it is gone.
    UnderlayChanged,
    /// Something that facts are about.
    Changed,
    /// The TUN device with this number is gone.
    DeviceGone(u32),
}

/// A change of one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It belongs to this site: the host has its own routes for it.
    Own(IpNet),
    /// It belongs to another site.
    Foreign(IpNet),
    /// It is no longer in the mesh.
    Gone(IpNet),
}

enum Request {
    Edit(Vec<Edit>, oneshot::Sender<()>),
    Device(Option<u32>, u16, oneshot::Sender<()>),
    Cut(bool, oneshot::Sender<()>),
    Remotes(BTreeSet<IpAddr>),
    Forwarding(bool),
    Status(oneshot::Sender<RouteStatus>),
    Facts(oneshot::Sender<RoutingFacts>),
}

#[derive(Debug)]
pub struct Setup {
    /// Determines device and table.
    pub instance: Instance,
    pub mark: Mark,
    /// Switch forwarding on as prefixes need it.
    pub forwarding: bool,
    /// The data directory, where settings are saved that `down` puts back.
    pub data: PathBuf,
    /// Gets the host's networks, for the firewall.
    pub networks: watch::Sender<HostNetworks>,
    pub cancel: CancellationToken,
}

impl Routes {
    /// Opens netlink, subscribes, reads the host's networks, and starts the task on `tasks`.
    pub async fn start(
        setup: Setup,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Result<(Self, mpsc::Receiver<HostEvent>), NetlinkError> {
        let (requests, receiver) = mpsc::channel(BACKLOG);
        let (events, event_receiver) = mpsc::channel(BACKLOG);
        let cancel = setup.cancel.clone();
        let mut keeper = keeper::Keeper::new(setup, events, tasks)?;
        keeper.read_host().await?;
        tasks.spawn(async move {
            tokio::select! {
                () = keeper.run(receiver) => {}
                () = cancel.cancelled() => {}
            }
        });
        Ok((Self { requests }, event_receiver))
    }

    /// Makes edits and waits until the kernel has them. The first call has all prefixes, possibly none:
    /// before it, the table is not changed. What the kernel refuses is logged, retried, and reported in
    /// [`RouteStatus::error`].
    pub async fn edit(&self, edits: Vec<Edit>) {
        self.request(|done| Request::Edit(edits, done)).await;
    }

    /// Sets up the device and waits until the routes lead to it. `mtu` is in bytes.
    pub async fn set_device(&self, index: Option<u32>, mtu: u16) {
        self.request(|done| Request::Device(index, mtu, done)).await;
    }

    /// Makes all prefixes unreachable, or reachable again.
    pub async fn set_cut(&self, cut: bool) {
        self.request(|done| Request::Cut(cut, done)).await;
    }

    /// Sets the addresses whose paths make up the underlay.
    pub async fn set_remotes(&self, remotes: BTreeSet<IpAddr>) {
        // Fails only when the task was cancelled.
        let _ = self.requests.send(Request::Remotes(remotes)).await;
    }

    /// Whether to switch forwarding on as prefixes need it.
    pub async fn set_forwarding(&self, forwarding: bool) {
        let _ = self.requests.send(Request::Forwarding(forwarding)).await;
    }

    /// What was measured; `None` if the task has ended. It reads nothing from the kernel.
    pub async fn facts(&self) -> Option<RoutingFacts> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Facts(reply)).await.ok()?;
        answer.await.ok()
    }

    /// `None` if the task has ended.
    pub async fn status(&self) -> Option<RouteStatus> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Status(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn request(&self, request: impl FnOnce(oneshot::Sender<()>) -> Request) {
        let (done, answer) = oneshot::channel();
        if self.requests.send(request(done)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

//! The task that keeps the kernel's routes as they are wanted: on every change, when the kernel says
//! that somebody else touched them, and on a timer.

mod keeper;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::netlink::NetlinkError;
use crate::instance::Instance;

/// How many requests wait.
const BACKLOG: usize = 32;

/// A handle on the task, which ends when all of them are dropped or on the token.
#[derive(Clone, Debug)]
pub struct Routes {
    requests: mpsc::Sender<Request>,
}

/// What happened on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// Underlay packets leave from another address than before.
    UnderlayChanged,
    /// The TUN device of this number is gone.
    DeviceGone(u32),
}

/// The kernel's table against the intended one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Routes that there should be.
    pub intended: usize,
    /// Those of them that there are.
    pub installed: usize,
    /// Some that are missing, as text.
    pub missing: Vec<String>,
    /// Some that shouldn't be there, as text.
    pub stale: Vec<String>,
    /// The last refusal of the kernel, while it lasts.
    pub error: Option<String>,
    /// Addresses that the host speaks to the mesh from.
    pub sources: Vec<IpAddr>,
    /// Directly connected subnets that meet a prefix of another site.
    pub overlaps: Vec<(IpNet, IpNet)>,
}

/// What happens to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It is ours: the host routes it without us.
    Own(IpNet),
    /// It is another site's.
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
    Audit(oneshot::Sender<Audit>),
}

/// What the task is started with.
#[derive(Debug)]
pub struct Setup {
    /// Names the device, table and mark.
    pub instance: Instance,
    /// Whether forwarding is switched on as prefixes need it.
    pub forwarding: bool,
    /// Ends the task.
    pub cancel: CancellationToken,
}

impl Routes {
    /// Opens netlink, subscribes, looks at the host, and starts the task on `tasks`.
    ///
    /// # Errors
    /// When netlink cannot be opened or the host's addresses cannot be read.
    pub async fn start(
        setup: Setup,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Result<(Self, mpsc::Receiver<HostEvent>), NetlinkError> {
        let (requests, receiver) = mpsc::channel(BACKLOG);
        let (events, told) = mpsc::channel(BACKLOG);
        let cancel = setup.cancel.clone();
        let mut keeper = keeper::Keeper::new(setup, events, tasks)?;
        keeper.look_around().await?;
        tasks.spawn(async move {
            tokio::select! {
                () = keeper.run(receiver) => {}
                () = cancel.cancelled() => {}
            }
        });
        Ok((Self { requests }, told))
    }

    /// Makes edits, and returns when the kernel has them. The first, which may be empty, is the whole
    /// state: before it the table is left alone. A refusal is logged, retried, and in
    /// [`Audit::error`].
    pub async fn edit(&self, edits: Vec<Edit>) {
        self.wait(|done| Request::Edit(edits, done)).await;
    }

    /// Says which device routes lead to, sets that up, and returns when they do. `mtu` is in bytes.
    pub async fn set_device(&self, index: Option<u32>, mtu: u16) {
        self.wait(|done| Request::Device(index, mtu, done)).await;
    }

    /// Makes all prefixes unreachable, or no longer.
    pub async fn set_cut(&self, cut: bool) {
        self.wait(|done| Request::Cut(cut, done)).await;
    }

    /// Names the addresses whose paths make the underlay.
    pub async fn set_remotes(&self, remotes: BTreeSet<IpAddr>) {
        // The task ends only with the program.
        let _ = self.requests.send(Request::Remotes(remotes)).await;
    }

    /// Whether forwarding is switched on as prefixes need it, from now on.
    pub async fn set_forwarding(&self, forwarding: bool) {
        let _ = self.requests.send(Request::Forwarding(forwarding)).await;
    }

    /// Compares the kernel's table with the intended one.
    pub async fn audit(&self) -> Option<Audit> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Audit(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn wait(&self, request: impl FnOnce(oneshot::Sender<()>) -> Request) {
        let (done, answer) = oneshot::channel();
        if self.requests.send(request(done)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

//! The edge's own nf_tables table `inet cframe-<instance>`: what keeps packets for other sites from leaving
//! in the clear, and masquerading.
//!
//! [`ruleset`] says what is in it (pure), `keeper` applies and repairs it with `nft`, woken by the kernel.
//! It stays when the edge stops, until `down`.

pub mod ruleset;

mod facts;
mod keeper;
pub(super) mod nft;
mod query;
mod watch;
mod wire;

use tokio::{
    sync::{mpsc, oneshot, watch as value},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    netlink::Kernel,
    networks::Networks,
    reconcile::{HostNetworks, Intent},
    routes::Edit,
};
use crate::{
    config::OwnPrefixes,
    instance::{Instance, Mark},
};
pub use facts::{FirewallFacts, Uncovered};
pub use nft::NftError;

/// A handle to the task, which ends when it is cancelled or all handles are dropped. None of the changes
/// waits for `nft`.
#[derive(Clone, Debug)]
pub struct Firewall {
    requests: mpsc::UnboundedSender<Request>,
}

#[derive(Debug)]
pub struct Setup {
    pub instance: Instance,
    pub mark: Mark,
    pub snat: bool,
    pub own_prefixes: OwnPrefixes,
    /// The prefixes of the last state on disk, if there is one: [`Edit::Own`] and [`Edit::Foreign`].
    pub known: Option<Vec<Edit>>,
    /// What the host has, when it changes.
    pub networks: value::Receiver<HostNetworks>,
    pub cancel: CancellationToken,
}

/// Packets that were kept from leaving in the clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// For other sites.
    pub foreign: u64,
    /// For addresses of this site that no network of the host leads to.
    pub uncovered: u64,
}

enum Request {
    Edit(Vec<Edit>),
    Options(bool, OwnPrefixes),
    Facts(oneshot::Sender<FirewallFacts>),
}

impl Firewall {
    /// Installs the table for the prefixes that are known, and starts the task on `tasks`. What the kernel
    /// or `nft` refuses is retried, and reported in [`FirewallFacts`].
    pub async fn start(setup: Setup, tasks: &mut JoinSet<()>) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let cancel = setup.cancel.clone();
        let mut keeper = keeper::Keeper::new(setup).await;
        keeper.install().await;
        tasks.spawn(async move {
            tokio::select! {
                () = keeper.run(receiver) => {}
                () = cancel.cancelled() => {}
            }
        });
        Self { requests }
    }

    /// Makes edits soon. The first call has all prefixes, possibly none: before it, the table has those that
    /// were known at the start.
    pub fn edit(&self, edits: Vec<Edit>) {
        self.send(Request::Edit(edits));
    }

    pub fn set_options(&self, snat: bool, own_prefixes: OwnPrefixes) {
        self.send(Request::Options(snat, own_prefixes));
    }

    /// `None` if the task has ended.
    pub async fn facts(&self) -> Option<FirewallFacts> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Facts(reply));
        answer.await.ok()
    }

    fn send(&self, request: Request) {
        // Fails only when the task was cancelled.
        let _ = self.requests.send(request);
    }
}

/// Installs the table for these prefixes, without keeping it.
pub async fn install(setup: Setup) -> Result<(), NftError> {
    let mut keeper = keeper::Keeper::new(setup).await;
    keeper.install().await;
    keeper.into_result()
}

/// Removes the table. Without `nft` there cannot be one.
pub async fn remove(instance: &Instance) -> Result<(), NftError> {
    match nft::apply(ruleset::removal(instance)).await {
        Err(NftError::Missing(_)) => Ok(()),
        other => other,
    }
}

/// The host's networks as the kernel has them now; empty if they cannot be read.
async fn read_networks(instance: &Instance, intent: &Intent) -> HostNetworks {
    let Ok(kernel) = Kernel::open() else { return HostNetworks::default() };
    let devices = kernel.devices().await.unwrap_or_default();
    let tun = devices.iter().find(|device| device.name == instance.name()).map(|tun| tun.index);
    let mut networks = Networks::default();
    networks.set_tun(tun);
    networks.clear(intent.foreign(), kernel.host().await.unwrap_or_default());
    networks.published(intent.own())
}

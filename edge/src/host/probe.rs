//! Measures whether the host forwards between site and mesh: by packets of this process that take the
//! host's own way, every few seconds.
//!
//! Into the mesh: a packet enters by a TAP as if it had arrived by the site's device, and is recognised
//! when the data plane reads it from the TUN. Into the site: a packet is written into the TUN, and is
//! counted and dropped by the last rule of the host's firewall. If one does not arrive, the rule that
//! dropped it is looked for.

mod cause;
pub mod facts;
mod legacy;
mod nft;
mod packet;
mod plan;
mod prober;
mod survey;
mod tap;
mod trace;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::driver::probes::{Arrival, Injector, Magic, Watcher};
use crate::instance::Instance;
use facts::ForwardingFacts;
use prober::Prober;

/// Between two rounds while everything passes.
const INTERVAL: Duration = Duration::from_secs(4);
/// Between two rounds while something does not.
const SHORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the firewall's generation is read.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// After a change: another one often follows it at once.
const DELAY: Duration = Duration::from_millis(100);

/// How long a caller waits for a round.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Probes that have arrived and wait.
const BACKLOG: usize = 1024;

/// What is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// This site's prefixes.
    pub own: Vec<IpNet>,
    /// Those of the other sites.
    pub foreign: Arc<Vec<IpNet>>,
    /// The number of the TUN; `None` while there is none.
    pub tun: Option<u32>,
    /// Cut off from the mesh: nothing passes, and that is right.
    pub cut: bool,
    pub port: PortSite,
}

/// The mesh's UDP port and who uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSite {
    pub listen: u16,
    /// The mark of the socket's packets.
    pub mark: u32,
    /// Whether peers dial this edge.
    pub is_dialled: bool,
    /// Where links that are up lead.
    pub linked: Vec<SocketAddr>,
    /// Where peers are dialled that do not answer.
    pub failing: Vec<SocketAddr>,
    /// Other addresses of peers.
    pub peers: Vec<IpAddr>,
    /// Sends that the firewall has refused, since the start.
    pub refused_sends: u64,
    /// At least one peer has no link.
    pub link_down: bool,
}

/// A handle to the task.
#[derive(Debug)]
pub struct Probe {
    site: watch::Sender<Site>,
    requests: mpsc::Sender<oneshot::Sender<()>>,
    facts: watch::Receiver<Option<ForwardingFacts>>,
}

/// The two ends of the channel from the data plane.
#[derive(Debug)]
pub struct Arrivals {
    magic: Magic,
    receiver: mpsc::Receiver<Arrival>,
}

/// What recognises probes in the data plane, and the other end.
pub fn watcher(magic: Magic) -> (Watcher, Arrivals) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (Watcher::new(magic, sender), Arrivals { magic, receiver })
}

/// Removes the tables that a killed process has left.
pub async fn remove(instance: &Instance) {
    let tables = [nft::table(instance), nft::trace_table(instance)].map(|name| nft::removal(&name));
    for script in tables.into_iter().chain([nft::egress_removal(instance)]) {
        // Without `nft` there is none.
        let _ = nft::run(&script).await;
    }
}

impl Probe {
    /// Starts the task on `tasks`.
    pub fn start(
        instance: Instance,
        injector: Injector,
        arrivals: Arrivals,
        cancel: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (site, site_receiver) = watch::channel(Site::default());
        let (requests, request_receiver) = mpsc::channel(4);
        let (facts_sender, facts) = watch::channel(None);
        tasks.spawn(async move {
            let prober = Prober::new(instance.clone(), injector, arrivals);
            let task =
                Task { site: site_receiver, requests: request_receiver, facts: facts_sender };
            tokio::select! {
                () = task.run(prober) => {}
                () = cancel.cancelled() => {}
            }
            remove(&instance).await;
        });
        Self { site, requests, facts }
    }

    /// Sets what is measured. A change is measured at once.
    pub fn set_site(&self, site: Site) {
        self.site.send_if_modified(|current| {
            let changed = *current != site;
            *current = site;
            changed
        });
    }

    /// What was measured last; `None` before the first round.
    pub fn facts(&self) -> Option<ForwardingFacts> {
        self.facts.borrow().clone()
    }

    /// Waits until other facts are measured. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.facts.changed().await.is_err() {
            // The task has ended, as the process does.
            std::future::pending::<()>().await;
        }
    }

    /// Measures now.
    pub async fn now(&self) -> Option<ForwardingFacts> {
        let (done, answer) = oneshot::channel();
        // While a rule is looked for, the last facts are good enough.
        if self.requests.try_send(done).is_ok() {
            let _ = timeout(MAX_WAIT, answer).await;
        }
        self.facts()
    }
}

/// The task's ends of the handle's channels.
struct Task {
    site: watch::Receiver<Site>,
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    facts: watch::Sender<Option<ForwardingFacts>>,
}

impl Task {
    async fn run(mut self, mut prober: Prober) {
        let mut next = Instant::now() + DELAY;
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut waiting = None;
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(done) => waiting = Some(done),
                    None => return,
                },
                changed = self.site.changed() => match changed {
                    Ok(()) => {
                        next = next.min(Instant::now() + DELAY);
                        continue;
                    }
                    Err(_) => return,
                },
                _ = poll.tick() => {
                    if prober.rules_have_changed() {
                        next = next.min(Instant::now() + DELAY);
                    }
                    continue;
                }
                () = sleep_until(next.into()) => {}
            }
            let site = self.site.borrow().clone();
            let facts = prober.round(&site).await;
            let interval = if prober.has_suspects() { SHORT_INTERVAL } else { INTERVAL };
            next = Instant::now() + interval;
            self.facts.send_if_modified(|current| {
                let changed = current.as_ref() != Some(&facts);
                *current = Some(facts);
                changed
            });
            if let Some(done) = waiting {
                let _ = done.send(());
            }
        }
    }
}

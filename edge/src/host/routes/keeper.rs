//! The task itself. While it runs, nothing else in this program writes to the table.

mod device;
mod report;
mod table;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch as value},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    Edit, HostEvent, Request, Setup,
    bypass::{self, Bypass},
    forwarding::ForwardingKeeper,
    underlay::Underlay,
};
use crate::{
    host::{
        netlink::{Affected, Kernel, NetlinkError, Notifications, Pending, watch},
        networks::{Change, Networks},
        reconcile::{HostNetworks, Intent, RouteKey},
    },
    instance::{Instance, Mark},
};
use device::TunDevice;
use table::Repairs;

/// How long notifications are collected before they are handled: one change of an address causes
/// several.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often the whole table, and the host's networks, are compared with what is known. Large tables take
/// long to read: the interval grows by itself once per `ROUTES_PER_INTERVAL` routes.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);
const ROUTES_PER_INTERVAL: usize = 20_000;
/// Instead of the interval, while the kernel refuses something.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// After lost notifications the host is read again, and then not for this many times as long as it took.
const READ_REST: u32 = 20;

// fields: the state of one task; each part has a type of its own.
pub(super) struct Keeper {
    kernel: Kernel,
    notifications: Arc<Notifications>,
    instance: Instance,
    mark: Mark,
    intent: Intent,
    networks: Networks,
    device: TunDevice,
    underlay: Underlay,
    bypass: Bypass,
    forwarding: ForwardingKeeper,
    repairs: Repairs,
    schedule: Schedule,
    error: Option<String>,
    /// Whether the prefixes are known. Until then the table stays as an earlier process has left it: an
    /// empty table would let packets leave unencrypted.
    armed: bool,
    /// Gets the host's networks.
    published: value::Sender<HostNetworks>,
    events: mpsc::Sender<HostEvent>,
}

/// When what is due.
#[derive(Debug)]
struct Schedule {
    pending: Option<(Instant, Pending)>,
    /// A comparison of everything.
    pass: Instant,
    /// The host is read again, and not before.
    read_host: Option<Instant>,
    may_read_host: Instant,
}

impl Keeper {
    pub(super) fn new(
        setup: Setup,
        events: mpsc::Sender<HostEvent>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, NetlinkError> {
        let kernel = Kernel::open()?;
        // Subscribed before anything is read, so that no change in between is missed.
        let notifications = watch(setup.instance.table(), kernel.ports(), tasks)?;
        let now = Instant::now();
        Ok(Self {
            kernel,
            notifications,
            instance: setup.instance,
            mark: setup.mark,
            intent: Intent::default(),
            networks: Networks::default(),
            device: TunDevice::default(),
            underlay: Underlay::default(),
            bypass: Bypass::new(),
            forwarding: ForwardingKeeper::new(setup.forwarding, setup.data),
            repairs: Repairs::default(),
            schedule: Schedule { pending: None, pass: now, read_host: None, may_read_host: now },
            error: None,
            armed: false,
            published: setup.networks,
            events,
        })
    }

    pub(super) async fn run(&mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let notifications = Arc::clone(&self.notifications);
            let pending_at = self.schedule.pending.as_ref().map(|(at, _)| *at);
            let repair_at = self.repairs.due();
            let forward_at = self.forwarding.backoff.due();
            let read_at = self.schedule.read_host;
            let at = |at: Option<Instant>| sleep_until(at.unwrap_or_else(Instant::now));
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.handle(request).await,
                    None => return,
                },
                notified = notifications.next() => self.collect(notified),
                () = at(pending_at), if pending_at.is_some() => self.handle_pending().await,
                () = at(repair_at), if repair_at.is_some() => self.repair().await,
                () = at(forward_at), if forward_at.is_some() => self.forward(),
                () = at(read_at), if read_at.is_some() => self.read_host_again().await,
                () = sleep_until(self.bypass.due()) => self.check_ways().await,
                () = sleep_until(self.schedule.pass) => self.pass().await,
            }
            if self.kernel.is_lost() {
                // The process ends when this task does.
                return error!("the netlink socket was lost");
            }
            self.schedule_pass();
        }
    }

    /// Reads the host's networks for the first time.
    pub(super) async fn read_host(&mut self) -> Result<(), NetlinkError> {
        let dump = self.kernel.host().await?;
        self.networks.clear(self.intent.foreign(), dump);
        self.update_local();
        self.underlay.update(&self.kernel, self.mark).await?;
        Ok(())
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::Edit(edits, done) => {
                self.edit(&edits).await;
                let _ = done.send(());
            }
            Request::Device(index, mtu, done) => {
                self.use_device(index, mtu).await;
                let _ = done.send(());
            }
            Request::Cut(cut, done) => {
                self.intent.set_cut(cut);
                self.reconcile().await;
                let _ = done.send(());
            }
            Request::Remotes(remotes) => {
                if self.underlay.set_remotes(remotes) {
                    // Not reported as a change: other remotes have other ways.
                    if let Err(error) = self.underlay.update(&self.kernel, self.mark).await {
                        self.record_refusal(&error);
                    }
                    self.find_marked().await;
                }
            }
            Request::Forwarding(forwarding) => {
                self.forwarding.set(forwarding);
                self.forward();
            }
            Request::Status(reply) => {
                let _ = reply.send(self.status().await);
            }
            Request::Facts(reply) => {
                let _ = reply.send(self.facts());
            }
        }
    }

    async fn edit(&mut self, edits: &[Edit]) {
        let mut nets: BTreeSet<_> = BTreeSet::new();
        for edit in edits {
            let (Edit::Own(net) | Edit::Foreign(net) | Edit::Gone(net)) = edit;
            nets.insert(*net);
        }
        let before = self.held(self.intent.affected(nets.iter().copied()));
        let sources = [false, true].map(|v6| self.intent.source(v6));
        for edit in edits {
            match edit {
                Edit::Own(net) => self.intent.add(*net, true),
                Edit::Foreign(net) => self.intent.add(*net, false),
                Edit::Gone(net) => self.intent.remove(net),
            }
            match edit {
                Edit::Foreign(net) => drop(self.networks.add_foreign(*net)),
                Edit::Own(net) | Edit::Gone(net) => {
                    self.networks.remove_foreign(*net, self.intent.foreign());
                }
            }
        }
        // What local networks overlap has changed with the prefixes.
        let local = self.update_local();
        if !self.armed {
            self.armed = true;
            self.reconcile().await;
            self.restart_ways().await;
        } else if local.is_none() || sources != [false, true].map(|v6| self.intent.source(v6)) {
            self.reconcile().await;
        } else {
            let mut affected = self.intent.affected(nets);
            affected.extend(local.unwrap_or_default());
            self.apply(&before, affected).await;
        }
        if edits.iter().any(|edit| matches!(edit, Edit::Own(_))) {
            self.choose_packets();
        }
        self.forward();
    }

    /// Notifications wait for a moment, but not for longer while more arrive.
    fn collect(&mut self, notified: Pending) {
        match &mut self.schedule.pending {
            Some((_, pending)) => pending.append(notified),
            None => self.schedule.pending = Some((Instant::now() + DEBOUNCE, notified)),
        }
    }

    async fn handle_pending(&mut self) {
        let Some((_, pending)) = self.schedule.pending.take() else { return };
        let now = Instant::now();
        let affected = pending.affected;
        if affected.has(Affected::HOST) {
            self.request_read();
        }
        self.handle_changes(&pending.changes, affected).await;
        if affected.has(Affected::OWN_RULES) {
            self.repairs.rules.record(pending.culprit.clone(), now);
        }
        if !pending.keys.is_empty() || affected.has(Affected::TABLE) {
            self.repairs.keys.extend(pending.keys);
            self.repairs.whole |= affected.has(Affected::TABLE);
            self.repairs.routes.record(pending.culprit, now);
        }
        if affected.has(Affected::RULES) || affected.has(Affected::RULE_TABLES) {
            self.restart_ways().await;
        }
        if affected.has(Affected::SETTINGS) {
            self.forward();
        }
        if affected != Affected::default() {
            self.send(HostEvent::Changed);
        }
    }

    /// Applies changes of the host's networks.
    async fn handle_changes(&mut self, changes: &[Change], affected: Affected) {
        let (mut local, mut unknown) = (false, false);
        let mut underlay = affected.has(Affected::RULES);
        for change in changes {
            underlay |= self.underlay.is_concerned(change, &self.networks);
            self.see_device(change).await;
            let effect = self.networks.apply(change, self.intent.foreign());
            local |= effect.local;
            unknown |= effect.unknown;
        }
        if unknown {
            self.request_read();
        }
        if local {
            self.use_networks().await;
        } else {
            self.publish_networks();
        }
        if underlay {
            self.check_underlay().await;
        }
    }

    /// Computes the local networks again; see [`Intent::set_local`].
    fn update_local(&mut self) -> Option<BTreeSet<RouteKey>> {
        self.publish_networks();
        self.intent.set_local(self.networks.local(self.intent.foreign()))
    }

    fn publish_networks(&self) {
        let networks = self.networks.published(self.intent.own());
        self.published.send_if_modified(|known| {
            let changed = *known != networks;
            *known = networks;
            changed
        });
    }

    /// Uses the host's networks as they are now.
    async fn use_networks(&mut self) {
        match self.update_local() {
            None => {
                info!("another source address: all routes change");
                self.reconcile().await;
            }
            Some(affected) if affected.is_empty() => return,
            Some(affected) => {
                // The deletion of a route that is not there is no error.
                let held: Vec<(RouteKey, bool)> = affected.iter().map(|key| (*key, true)).collect();
                self.apply(&held, affected).await;
            }
        }
        self.choose_packets();
        self.forward();
        self.send(HostEvent::Changed);
    }

    fn request_read(&mut self) {
        if self.schedule.read_host.is_none() {
            self.schedule.read_host = Some(self.schedule.may_read_host.max(Instant::now()));
        }
    }

    async fn read_host_again(&mut self) {
        self.schedule.read_host = None;
        let started = Instant::now();
        match self.kernel.host().await {
            Ok(dump) => {
                self.networks.clear(self.intent.foreign(), dump);
                self.use_networks().await;
                self.check_underlay().await;
                self.check_device().await;
            }
            Err(error) => self.record_refusal(&error),
        }
        let now = Instant::now();
        self.schedule.may_read_host = now + (now - started) * READ_REST;
    }

    /// Compares everything with what is known: notifications can be lost.
    async fn pass(&mut self) {
        self.schedule.pass = Instant::now();
        if self.error.is_none() {
            self.read_host_again().await;
        }
        self.reconcile().await;
        self.forward();
    }

    async fn check_underlay(&mut self) {
        match self.underlay.update(&self.kernel, self.mark).await {
            Ok(true) => {
                info!("the way to a peer has changed, or the address that is used for it");
                self.send(HostEvent::UnderlayChanged);
            }
            Ok(false) => {}
            Err(error) => self.record_refusal(&error),
        }
        self.find_marked().await;
    }

    async fn find_marked(&mut self) {
        let rules = (self.bypass.rules.as_slice(), self.mark);
        let (intent, networks) = (&self.intent, &self.networks);
        if let Err(error) = self.underlay.find_marked(&self.kernel, rules, intent, networks).await {
            self.record_refusal(&error);
        }
    }

    async fn restart_ways(&mut self) {
        let host = host(&self.kernel, &self.intent, &self.networks, self.device.index);
        let Some(host) = host else { return };
        match self.bypass.restart(host).await {
            Ok(()) => {
                self.notifications.set_tables(self.bypass.tables());
                self.find_marked().await;
                self.send(HostEvent::Changed);
            }
            Err(error) => self.record_refusal(&error),
        }
    }

    async fn check_ways(&mut self) {
        match host(&self.kernel, &self.intent, &self.networks, self.device.index) {
            Some(host) if self.armed && !self.intent.is_cut() => {
                if let Err(error) = self.bypass.step(host).await {
                    self.bypass.postpone();
                    self.record_refusal(&error);
                }
            }
            _ => self.bypass.postpone(),
        }
    }

    fn choose_packets(&mut self) {
        let host = host(&self.kernel, &self.intent, &self.networks, self.device.index);
        if let Some(host) = host {
            self.bypass.choose_packets(host);
        }
    }

    fn forward(&mut self) {
        if self.armed {
            self.forwarding.check(&self.intent, &self.networks, self.device.index);
        }
    }

    fn record_refusal(&mut self, error: &NetlinkError) {
        let text = chain(error);
        // It is retried every few seconds, and logged once.
        if self.error.as_ref() != Some(&text) {
            warn!(error = %text, "the kernel refused a change of routes");
            self.error = Some(text);
        }
    }

    fn schedule_pass(&mut self) {
        let now = Instant::now();
        let size = (self.intent.foreign().len() + self.networks.size()) / ROUTES_PER_INTERVAL;
        let interval = RECONCILE_INTERVAL * u32::try_from(1 + size).unwrap_or(u32::MAX);
        let interval = if self.error.is_some() { RETRY_DELAY } else { interval };
        let planned = self.schedule.pass;
        self.schedule.pass =
            if planned <= now { now + interval } else { planned.min(now + interval) };
    }

    fn send(&self, event: HostEvent) {
        // If the channel is full, it already has an event whose handling covers this one.
        let _ = self.events.try_send(event);
    }
}

/// What a check of ways needs, while there is a device.
fn host<'a>(
    kernel: &'a Kernel,
    intent: &'a Intent,
    networks: &'a Networks,
    tun: Option<u32>,
) -> Option<bypass::Host<'a>> {
    tun.map(|tun| bypass::Host { kernel, intent, networks, tun })
}

fn chain(error: &NetlinkError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

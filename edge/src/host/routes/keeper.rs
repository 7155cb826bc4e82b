//! The task itself. While it runs, nothing else in this program writes to the table.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{Edit, HostEvent, Request, Setup};
use crate::{
    host::{
        netlink::{Affected, Device, Found, Kernel, NetlinkError, Notifications, watch},
        reconcile::{Intent, Local, Plan, Route, RouteKey},
        router_advertisements, sysctl,
        tun::QUEUE_LEN,
    },
    instance::Instance,
    status::RouteStatus,
};

/// How long notifications are collected before they are handled: one change of an address causes
/// several.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often the whole table is compared with the intended one. A large table takes long to read: the
/// interval grows by itself once per `ROUTES_PER_INTERVAL` routes.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(30);
const ROUTES_PER_INTERVAL: usize = 20_000;
/// Instead of the interval, while the kernel refuses something.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Remotes whose paths are looked up: more would only repeat the same few paths.
const MAX_REMOTES: usize = 64;
/// Routes that the status lists.
const MAX_LISTED: usize = 20;

/// Addresses that only a default route leads to: they are for documentation (RFC 5737, RFC 3849).
const DEFAULT_ROUTE_PROBES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

pub(super) struct Keeper {
    kernel: Kernel,
    notifications: Arc<Notifications>,
    instance: Instance,
    intent: Intent,
    device: Option<u32>,
    remotes: BTreeSet<IpAddr>,
    underlay: BTreeSet<(u32, Option<IpAddr>)>,
    forwarding: bool,
    /// The data directory.
    data: PathBuf,
    error: Option<String>,
    /// Whether the prefixes are known. Until then the table stays as an earlier process has left it: an
    /// empty table would let packets leave unencrypted.
    armed: bool,
    events: mpsc::Sender<HostEvent>,
}

impl Keeper {
    pub(super) fn new(
        setup: Setup,
        events: mpsc::Sender<HostEvent>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, NetlinkError> {
        let kernel = Kernel::open()?;
        let (name, table) = (setup.instance.name().to_owned(), setup.instance.table());
        // Subscribed before anything is read, so that no change in between is missed.
        let notifications = watch(name, table, kernel.ports(), tasks)?;
        Ok(Self {
            kernel,
            notifications,
            instance: setup.instance,
            intent: Intent::default(),
            device: None,
            remotes: BTreeSet::new(),
            underlay: BTreeSet::new(),
            forwarding: setup.forwarding,
            data: setup.data,
            error: None,
            armed: false,
            events,
        })
    }

    pub(super) async fn run(&mut self, mut requests: mpsc::Receiver<Request>) {
        let mut pending: Option<(Instant, Affected)> = None;
        let mut next_pass = Instant::now();
        loop {
            let notifications = Arc::clone(&self.notifications);
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.handle(request).await,
                    None => return,
                },
                affected = notifications.next() => {
                    let (at, before) = pending.unwrap_or((Instant::now() + DEBOUNCE, affected));
                    pending = Some((at, before.and(affected)));
                }
                () = sleep_until(pending.map_or(next_pass, |(at, _)| at)), if pending.is_some() => {
                    if let Some((_, affected)) = pending.take() {
                        self.check(affected).await;
                    }
                }
                () = sleep_until(next_pass) => self.reconcile().await,
            }
            if self.kernel.is_lost() {
                // The process ends when this task does.
                return error!("the netlink socket was lost");
            }
            next_pass = self.next_pass(next_pass);
        }
    }

    /// Reads the host's networks for the first time.
    pub(super) async fn read_host(&mut self) -> Result<(), NetlinkError> {
        self.refresh_local().await?;
        self.underlay = self.read_underlay().await?;
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
                let remotes = remotes.into_iter().take(MAX_REMOTES).collect();
                if self.remotes != remotes {
                    self.remotes = remotes;
                    // Not reported as a change: other remotes have other paths.
                    if let Ok(underlay) = self.read_underlay().await {
                        self.underlay = underlay;
                    }
                }
            }
            Request::Forwarding(forwarding) => {
                self.forwarding = forwarding;
                self.forward().await;
            }
            Request::Status(reply) => {
                let _ = reply.send(self.status().await);
            }
        }
    }

    async fn use_device(&mut self, index: Option<u32>, mtu: u16) {
        self.device = index;
        self.intent.set_device(index);
        let set_up = match index {
            Some(index) => self.kernel.set_device(index, QUEUE_LEN, mtu).await,
            None => Ok(()),
        };
        let local = self.refresh_local().await.map(drop);
        self.reconcile().await;
        if let Err(error) = set_up.and(local) {
            self.record_refusal(&error);
        }
    }

    async fn edit(&mut self, edits: &[Edit]) {
        let own_before = self.intent.own().len();
        let nets = edits.iter().map(|edit| match edit {
            Edit::Own(net) | Edit::Foreign(net) | Edit::Gone(net) => *net,
        });
        let before: Vec<(RouteKey, bool)> = self.held(self.intent.affected(nets.clone()));
        let sources = [false, true].map(|v6| self.intent.source(v6));
        for edit in edits {
            match edit {
                Edit::Own(net) => self.intent.add(*net, true),
                Edit::Foreign(net) => self.intent.add(*net, false),
                Edit::Gone(net) => self.intent.remove(net),
            }
        }
        if !self.armed {
            self.armed = true;
            self.reconcile().await;
        } else if sources != [false, true].map(|v6| self.intent.source(v6)) {
            debug!(
                own_before,
                own = self.intent.own().len(),
                "another source address: all routes change"
            );
            self.reconcile().await;
        } else if let Err(error) = self.apply(&before, self.intent.affected(nets)).await {
            self.record_refusal(&error);
        }
        self.forward().await;
    }

    /// Whether each of these keys should hold a route.
    fn held(&self, keys: BTreeSet<RouteKey>) -> Vec<(RouteKey, bool)> {
        keys.into_iter().map(|key| (key, self.intent.at(&key).is_some())).collect()
    }

    /// Updates the keys that an edit affects. `before`: whether each held a route before the edit.
    async fn apply(
        &self,
        before: &[(RouteKey, bool)],
        affected: BTreeSet<RouteKey>,
    ) -> Result<(), NetlinkError> {
        let wanted = |key: &RouteKey| self.intent.at(key).map(|target| (*key, target));
        let put: Vec<Route> =
            affected.iter().filter_map(wanted).map(|(key, target)| Route { key, target }).collect();
        let gone: BTreeSet<RouteKey> = before
            .iter()
            .filter(|(key, held)| *held && self.intent.at(key).is_none())
            .map(|(key, _)| *key)
            .collect();
        let table = self.instance.table();
        self.kernel.put(table, &put).await?;
        self.kernel.delete_keys(table, &gone).await
    }

    async fn check(&mut self, affected: Affected) {
        // Also for changes of other devices: this one may have got another name.
        if affected.has(Affected::DEVICE) || affected.has(Affected::LOCAL) {
            self.check_device().await;
        }
        if affected.has(Affected::LOCAL) {
            match self.refresh_local().await {
                Ok(true) => self.reconcile().await,
                Ok(false) => {}
                Err(error) => self.record_refusal(&error),
            }
            self.check_underlay().await;
        }
        if affected.has(Affected::TABLE) || affected.has(Affected::DEVICE) {
            self.reconcile().await;
        }
    }

    async fn check_device(&mut self) {
        let Ok(devices) = self.kernel.devices().await else { return };
        let own = devices.iter().find(|device| device.name == self.instance.name());
        match own {
            Some(device) if Some(device.index) == self.device => {
                if !device.up {
                    warn!(device = %device.name, "the device was set down; bringing it up");
                    if let Err(error) = self.kernel.set_device_up(device.index).await {
                        self.record_refusal(&error);
                    }
                }
            }
            _ => {
                if let Some(index) = self.device {
                    self.delete_renamed(&devices, index).await;
                    self.send(HostEvent::DeviceGone(index));
                }
            }
        }
    }

    /// A device of this program that got another name is useless under it: it is made again.
    async fn delete_renamed(&self, devices: &[Device], index: u32) {
        let renamed = devices.iter().find(|device| device.index == index && device.is_marked());
        if let Some(device) = renamed {
            warn!(name = %device.name, "the device got another name; it is made again");
            if let Err(error) = self.kernel.delete_device(index).await {
                warn!(name = %device.name, %error, "the renamed device was not deleted");
            }
        }
    }

    /// Compares the whole table with the intended one and corrects it.
    async fn reconcile(&mut self) {
        match self.correct_table().await {
            Ok(()) => self.error = None,
            Err(error) => self.record_refusal(&error),
        }
        self.forward().await;
    }

    async fn correct_table(&self) -> Result<(), NetlinkError> {
        if !self.armed {
            return Ok(());
        }
        let table = self.instance.table();
        let found = self.kernel.table(table).await?;
        let plan = self.plan(&found);
        // Routes before the rules that lead to them: in between, the table must not be used.
        let made = self.kernel.put(table, &plan.missing).await;
        let stale: Vec<&Found> = plan.stale.iter().map(|index| &found[*index]).collect();
        let removed = self.kernel.delete_found(&stale).await;
        let rules = self.kernel.ensure_rules(table).await;
        // A refusal is retried every few seconds, and logged once.
        made.and(removed).and(rules)?;
        if plan != Plan::default() {
            info!(made = plan.missing.len(), removed = plan.stale.len(), "routes reconciled");
        }
        Ok(())
    }

    fn plan(&self, found: &[Found]) -> Plan {
        let routes: Vec<Route> = found.iter().map(|found| found.route).collect();
        self.intent.plan(&routes)
    }

    async fn refresh_local(&mut self) -> Result<bool, NetlinkError> {
        let addresses = self.kernel.addresses().await?;
        let connected = self.kernel.connected(self.device).await?;
        let addresses = addresses
            .into_iter()
            .filter(|address| Some(address.device) != self.device)
            .map(|address| address.ip)
            .collect();
        let subnets = connected.iter().filter(|(_, own)| *own).map(|(net, _)| *net).collect();
        let connected = connected.into_iter().map(|(net, _)| net).collect();
        Ok(self.intent.set_local(Local { connected, subnets, addresses }))
    }

    async fn check_underlay(&mut self) {
        match self.read_underlay().await {
            Ok(underlay) if underlay != self.underlay => {
                info!("the underlay's addresses changed");
                self.underlay = underlay;
                self.send(HostEvent::UnderlayChanged);
            }
            Ok(_) => {}
            Err(error) => self.record_refusal(&error),
        }
    }

    /// The devices through which underlay packets leave, with all their addresses: a link may use any.
    async fn read_underlay(&self) -> Result<BTreeSet<(u32, Option<IpAddr>)>, NetlinkError> {
        let mut underlay = BTreeSet::new();
        for to in DEFAULT_ROUTE_PROBES.iter().chain(&self.remotes) {
            if let Some(exit) = self.kernel.exit(*to, self.instance.mark()).await? {
                underlay.insert((exit.device, exit.source));
            }
        }
        let devices: BTreeSet<u32> = underlay.iter().map(|(device, _)| *device).collect();
        let addresses = self.kernel.addresses().await?;
        let usable = addresses.into_iter().filter(|address| devices.contains(&address.device));
        underlay.extend(usable.map(|address| (address.device, Some(address.ip))));
        Ok(underlay)
    }

    async fn forward(&self) {
        if self.forwarding {
            // The sets are sorted with IPv4 first.
            let nets = [self.intent.own(), self.intent.foreign()];
            if nets.iter().filter_map(|nets| nets.first()).any(|net| net.addr().is_ipv4()) {
                sysctl::forward_v4();
            }
            if nets.iter().filter_map(|nets| nets.last()).any(|net| net.addr().is_ipv6())
                && let Err(error) = router_advertisements::switch_on(&self.kernel, &self.data).await
            {
                warn!(%error, "IPv6 forwarding not switched on");
            }
        }
    }

    async fn status(&self) -> RouteStatus {
        let wanted = self.intent.wanted();
        let mut status = RouteStatus {
            table: self.instance.table(),
            mark: self.instance.mark(),
            intended: wanted.len(),
            error: self.error.clone(),
            sources: [false, true].iter().filter_map(|v6| self.intent.source(*v6)).collect(),
            overlaps: self.overlaps(),
            ..RouteStatus::default()
        };
        match self.kernel.table(self.instance.table()).await {
            Ok(found) => {
                let plan = self.plan(&found);
                status.installed = wanted.len() - plan.missing.len();
                let missing = plan.missing.iter().map(|route| describe(&route.key));
                status.missing = missing.take(MAX_LISTED).collect();
                let stale = plan.stale.iter().map(|index| describe(&found[*index].route.key));
                status.stale = stale.take(MAX_LISTED).collect();
            }
            Err(error) => status.error = Some(chain(&error)),
        }
        status
    }

    /// Directly connected subnets with the prefixes of other sites that they overlap.
    fn overlaps(&self) -> Vec<String> {
        let local = &self.intent.local().connected;
        let pairs =
            local.iter().flat_map(|net| self.intent.foreign().iter().map(move |f| (net, f)));
        let overlapping =
            pairs.filter(|(net, foreign)| foreign.contains(*net) || net.contains(*foreign));
        let text = overlapping.map(|(net, foreign)| format!("{net} (here) and {foreign} (mesh)"));
        text.take(MAX_LISTED).collect()
    }

    fn record_refusal(&mut self, error: &NetlinkError) {
        let text = chain(error);
        // It is retried every few seconds, and logged once.
        if self.error.as_ref() != Some(&text) {
            warn!(error = %text, "the kernel refused a change of routes");
            self.error = Some(text);
        }
    }

    fn next_pass(&self, planned: Instant) -> Instant {
        let now = Instant::now();
        let size = self.intent.foreign().len() / ROUTES_PER_INTERVAL;
        let interval = RECONCILE_INTERVAL * u32::try_from(1 + size).unwrap_or(u32::MAX);
        let interval = if self.error.is_some() { RETRY_DELAY } else { interval };
        if planned <= now { now + interval } else { planned.min(now + interval) }
    }

    fn send(&self, event: HostEvent) {
        // If the channel is full, it already has an event whose handling covers this one.
        let _ = self.events.try_send(event);
    }
}

fn describe(key: &RouteKey) -> String {
    format!("{} metric {}", key.net, key.metric)
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

//! The task itself. It alone writes to the table, so that what it wrote last is what it knows.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{Audit, Edit, HostEvent, Request, Setup};
use crate::{
    host::{
        netlink::{Found, Kernel, NetlinkError, Note, Notes, watch},
        reconcile::{Intent, Local, Place, Plan, Route},
        sysctl::{self, Forwarding},
        tun::QUEUE_LEN,
    },
    instance::Instance,
};

/// How long notifications gather before we look: a change of address comes as several.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often the whole table is compared; reading a large one takes its time, so that it is compared
/// less often.
const PERIOD: Duration = Duration::from_secs(30);
const ROUTES_PER_PERIOD: usize = 20_000;
/// After a refusal.
const RETRY: Duration = Duration::from_secs(2);
/// How many remotes are asked for: they differ in few ways.
const MAX_REMOTES: usize = 64;
/// How many routes an audit names.
const MAX_NAMED: usize = 20;

/// Addresses that only a default route leads to (RFC 5737, RFC 3849).
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

pub(super) struct Keeper {
    kernel: Kernel,
    notes: Arc<Notes>,
    instance: Instance,
    intent: Intent,
    device: Option<u32>,
    remotes: BTreeSet<IpAddr>,
    underlay: BTreeSet<(u32, Option<IpAddr>)>,
    forwarding: bool,
    error: Option<String>,
    /// Whether we know what is wanted. Until then the table stays as an earlier process left it:
    /// emptying it for a moment would let packets out in the clear.
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
        // Subscribed before the first look, so that no change falls in between.
        let notes = watch(name, table, kernel.ports(), tasks)?;
        Ok(Self {
            kernel,
            notes,
            instance: setup.instance,
            intent: Intent::default(),
            device: None,
            remotes: BTreeSet::new(),
            underlay: BTreeSet::new(),
            forwarding: setup.forwarding,
            error: None,
            armed: false,
            events,
        })
    }

    pub(super) async fn run(&mut self, mut requests: mpsc::Receiver<Request>) {
        let mut pending: Option<(Instant, Note)> = None;
        let mut next_pass = Instant::now();
        loop {
            let notes = Arc::clone(&self.notes);
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.handle(request).await,
                    None => return,
                },
                note = notes.next() => {
                    let (at, before) = pending.unwrap_or((Instant::now() + DEBOUNCE, note));
                    pending = Some((at, before.and(note)));
                }
                () = sleep_until(pending.map_or(next_pass, |(at, _)| at)), if pending.is_some() => {
                    if let Some((_, note)) = pending.take() {
                        self.look(note).await;
                    }
                }
                () = sleep_until(next_pass) => self.reconcile().await,
            }
            if self.kernel.is_lost() {
                // Whoever started us sees our end.
                return error!("the netlink socket was lost");
            }
            next_pass = self.next_pass(next_pass);
        }
    }

    /// Reads the host's networks for the first time.
    pub(super) async fn look_around(&mut self) -> Result<(), NetlinkError> {
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
                    // Other questions, so other answers: no change of ours.
                    if let Ok(underlay) = self.read_underlay().await {
                        self.underlay = underlay;
                    }
                }
            }
            Request::Forwarding(forwarding) => {
                self.forwarding = forwarding;
                self.forward();
            }
            Request::Audit(reply) => {
                let _ = reply.send(self.audit().await);
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
            self.refused(&error);
        }
    }

    async fn edit(&mut self, edits: &[Edit]) {
        let own_before = self.intent.own().len();
        let nets = edits.iter().map(|edit| match edit {
            Edit::Own(net) | Edit::Foreign(net) | Edit::Gone(net) => *net,
        });
        let before: Vec<(Place, bool)> = self.held(self.intent.affected(nets.clone()));
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
            debug!(own_before, own = self.intent.own().len(), "another source: all routes change");
            self.reconcile().await;
        } else if let Err(error) = self.apply(&before, self.intent.affected(nets)).await {
            self.refused(&error);
        }
        self.forward();
    }

    /// Which of some places hold something by intention.
    fn held(&self, places: BTreeSet<Place>) -> Vec<(Place, bool)> {
        places.into_iter().map(|place| (place, self.intent.at(&place).is_some())).collect()
    }

    /// Makes the places of an edit right, by what the kernel was given before.
    async fn apply(
        &self,
        before: &[(Place, bool)],
        affected: BTreeSet<Place>,
    ) -> Result<(), NetlinkError> {
        let wanted = |place: &Place| self.intent.at(place).map(|target| (*place, target));
        let put: Vec<Route> = affected
            .iter()
            .filter_map(wanted)
            .map(|(place, target)| Route { place, target })
            .collect();
        let gone: BTreeSet<Place> = before
            .iter()
            .filter(|(place, held)| *held && self.intent.at(place).is_none())
            .map(|(place, _)| *place)
            .collect();
        let table = self.instance.table();
        self.kernel.put(table, &put).await?;
        self.kernel.delete_places(table, &gone).await
    }

    async fn look(&mut self, note: Note) {
        // Also when others change: ours may have another name now.
        if note.has(Note::DEVICE) || note.has(Note::LOCAL) {
            self.check_device().await;
        }
        if note.has(Note::LOCAL) {
            match self.refresh_local().await {
                Ok(true) => self.reconcile().await,
                Ok(false) => {}
                Err(error) => self.refused(&error),
            }
            self.check_underlay().await;
        }
        if note.has(Note::TABLE) || note.has(Note::DEVICE) {
            self.reconcile().await;
        }
    }

    async fn check_device(&mut self) {
        let Ok(devices) = self.kernel.devices().await else { return };
        let ours = devices.iter().find(|device| device.name == self.instance.name());
        match ours {
            Some(device) if Some(device.index) == self.device => {
                if !device.up {
                    warn!(device = %device.name, "the device was set down; bringing it up");
                    if let Err(error) = self.kernel.set_device_up(device.index).await {
                        self.refused(&error);
                    }
                }
            }
            _ => {
                if let Some(index) = self.device {
                    self.tell(HostEvent::DeviceGone(index));
                }
            }
        }
    }

    /// Compares the whole table with what is wanted, and makes it so.
    async fn reconcile(&mut self) {
        match self.pass().await {
            Ok(()) => self.error = None,
            Err(error) => self.refused(&error),
        }
        self.forward();
    }

    async fn pass(&self) -> Result<(), NetlinkError> {
        if !self.armed {
            return Ok(());
        }
        let table = self.instance.table();
        let found = self.kernel.table(table).await?;
        let plan = self.plan(&found);
        // Routes before the rules that lead to them, so that nothing goes astray in between.
        let made = self.kernel.put(table, &plan.missing).await;
        let stale: Vec<&Found> = plan.stale.iter().map(|index| &found[*index]).collect();
        let removed = self.kernel.delete_found(&stale).await;
        let rules = self.kernel.ensure_rules(table).await;
        // A refusal is retried every few seconds, and told once.
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
                self.tell(HostEvent::UnderlayChanged);
            }
            Ok(_) => {}
            Err(error) => self.refused(&error),
        }
    }

    /// Where underlay packets leave, and all addresses there: a link may use any of them.
    async fn read_underlay(&self) -> Result<BTreeSet<(u32, Option<IpAddr>)>, NetlinkError> {
        let mut underlay = BTreeSet::new();
        for to in FAR.iter().chain(&self.remotes) {
            if let Some(exit) = self.kernel.exit(*to, self.instance.mark()).await? {
                underlay.insert((exit.device, exit.source));
            }
        }
        let devices: BTreeSet<u32> = underlay.iter().map(|(device, _)| *device).collect();
        let addresses = self.kernel.addresses().await?;
        let there = addresses.into_iter().filter(|address| devices.contains(&address.device));
        underlay.extend(there.map(|address| (address.device, Some(address.ip))));
        Ok(underlay)
    }

    fn forward(&self) {
        if self.forwarding {
            // In their order IPv4 comes first.
            let nets = [self.intent.own(), self.intent.foreign()];
            let v4 = nets.iter().filter_map(|nets| nets.first()).any(|net| net.addr().is_ipv4());
            let v6 = nets.iter().filter_map(|nets| nets.last()).any(|net| net.addr().is_ipv6());
            sysctl::forward(Forwarding { v4, v6 });
        }
    }

    async fn audit(&self) -> Audit {
        let wanted = self.intent.wanted();
        let mut audit = Audit {
            intended: wanted.len(),
            error: self.error.clone(),
            sources: [false, true].iter().filter_map(|v6| self.intent.source(*v6)).collect(),
            overlaps: self.overlaps(),
            ..Audit::default()
        };
        match self.kernel.table(self.instance.table()).await {
            Ok(found) => {
                let plan = self.plan(&found);
                audit.installed = wanted.len() - plan.missing.len();
                let missing = plan.missing.iter().map(|route| describe(&route.place));
                audit.missing = missing.take(MAX_NAMED).collect();
                let stale = plan.stale.iter().map(|index| describe(&found[*index].route.place));
                audit.stale = stale.take(MAX_NAMED).collect();
            }
            Err(error) => audit.error = Some(chain(&error)),
        }
        audit
    }

    fn overlaps(&self) -> Vec<(IpNet, IpNet)> {
        let connected = self.intent.local().connected.iter();
        let meets = |net: &IpNet| {
            let foreign = self.intent.foreign().iter();
            let meeting = foreign.filter(|foreign| foreign.contains(net) || net.contains(*foreign));
            meeting.map(|foreign| (*net, *foreign)).collect::<Vec<_>>()
        };
        connected.flat_map(meets).take(MAX_NAMED).collect()
    }

    fn refused(&mut self, error: &NetlinkError) {
        let text = chain(error);
        // Retried every few seconds: said once.
        if self.error.as_ref() != Some(&text) {
            warn!(error = %text, "the kernel refused a change of routes");
            self.error = Some(text);
        }
    }

    fn next_pass(&self, planned: Instant) -> Instant {
        let now = Instant::now();
        let size = self.intent.foreign().len() / ROUTES_PER_PERIOD;
        let period = PERIOD * u32::try_from(1 + size).unwrap_or(u32::MAX);
        let period = if self.error.is_some() { RETRY } else { period };
        if planned <= now { now + period } else { planned.min(now + period) }
    }

    fn tell(&self, event: HostEvent) {
        // A full channel holds the same event already, or one whose handling looks at everything.
        let _ = self.events.try_send(event);
    }
}

fn describe(place: &Place) -> String {
    format!("{} metric {}", place.net, place.metric)
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

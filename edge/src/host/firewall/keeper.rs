//! The task itself. While it runs, nothing else in this program writes to the table.

use std::{collections::BTreeSet, net::IpAddr, pin::Pin, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    Dropped, Request, Setup,
    facts::{FirewallFacts, Uncovered, nft_installer},
    nft::{Nft, NftError},
    query::Query,
    read_networks,
    ruleset::{self, Changes, Installed, Ruleset},
    watch::{Change, Watch},
};
use crate::host::{
    backoff::Backoff,
    culprit::Culprit,
    netlink::Kernel,
    reconcile::{HostNetworks, Intent},
    routes::Edit,
};

/// After a refusal: `nft` may be installed meanwhile.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// After masquerading alone was refused: the kernel's module may be loaded meanwhile.
const NAT_RETRY_DELAY: Duration = Duration::from_secs(5);
/// After notifications were lost: a program that changes other tables all the time must not keep us busy.
const OVERRUN_PAUSE: Duration = Duration::from_millis(100);
/// Between two changes of prefixes: each runs `nft`, which costs milliseconds, and routes can flap.
const CHANGE_INTERVAL: Duration = Duration::from_millis(200);
/// Prefixes of the site that are looked at for the facts.
const MAX_UNCOVERED: usize = 16;

// fields: what is wanted, what is installed, the work under way, and the sockets.
pub(super) struct Keeper {
    ruleset: Ruleset,
    /// Whether the prefixes are known. Until then the table stays as an earlier process has left it.
    known: bool,
    /// Whether the prefixes are those of a state that is in use, and not only of the one on disk.
    armed: bool,
    installed: Option<Installed>,
    /// Whether no other program has changed it since it was installed.
    intact: bool,
    /// See [`Ruleset::uncovered`]; `None` after a change.
    uncovered: Option<Vec<(IpNet, IpAddr)>>,
    /// Prefixes that were edited since the last change.
    edited: BTreeSet<IpNet>,
    /// When the next change of prefixes may start.
    next_change: Instant,
    /// Whether the whole table must be written, and from when.
    due: Option<Instant>,
    error: Option<NftError>,
    /// Why masquerading was refused, and when it is tried again.
    snat_error: Option<(String, Instant)>,
    /// The handles of the rules, as installed.
    rules: BTreeSet<u64>,
    backoff: Backoff,
    dropped: Dropped,
    networks: watch::Receiver<HostNetworks>,
    watch: Option<Watch>,
    query: Option<Query>,
    kernel: Option<Kernel>,
}

type Work = Pin<Box<dyn Future<Output = Result<(), NftError>> + Send>>;

/// What is written to the kernel.
enum Script {
    Table { snat: bool, destinations: Changes },
    Changes(Changes),
}

impl Keeper {
    pub(super) async fn new(setup: Setup) -> Self {
        let Setup { instance, mark, snat, own_prefixes, known, networks, .. } = setup;
        let mut ruleset = Ruleset { mark, snat, own_prefixes, ..Ruleset::new(instance) };
        let mut intent = Intent::default();
        for edit in known.iter().flatten() {
            match edit {
                Edit::Own(net) => intent.add(*net, true),
                Edit::Foreign(net) => intent.add(*net, false),
                Edit::Gone(_) => {}
            }
        }
        ruleset.set_networks(read_networks(&ruleset.instance, &intent).await);
        let mut keeper = Self {
            known: known.is_some(),
            armed: false,
            installed: None,
            intact: true,
            uncovered: None,
            edited: BTreeSet::new(),
            next_change: Instant::now(),
            due: None,
            error: None,
            snat_error: None,
            rules: BTreeSet::new(),
            backoff: Backoff::new("the firewall table"),
            dropped: Dropped::default(),
            ruleset,
            networks,
            watch: None,
            query: None,
            kernel: None,
        };
        keeper.open_sockets();
        keeper.apply(known.unwrap_or_default());
        keeper
    }

    /// Writes the whole table, if the prefixes are known.
    pub(super) async fn install(&mut self) {
        if self.known {
            self.due = Some(Instant::now());
            while let Some((script, work)) = self.next_work(Instant::now()) {
                self.finish(script, work.await).await;
            }
        }
    }

    pub(super) fn into_result(self) -> Result<(), NftError> {
        self.error.map_or(Ok(()), Err)
    }

    pub(super) async fn run(&mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut running: Option<(Script, Work)> = None;
        loop {
            if running.is_none() {
                running = self.next_work(Instant::now());
            }
            let next = self.next_start().filter(|_| running.is_none());
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.handle(request).await,
                    None => return,
                },
                result = finished(&mut running) => {
                    if let Some((script, _)) = running.take() {
                        self.finish(script, result).await;
                    }
                }
                change = next_change(&mut self.watch) => self.record_change(change).await,
                Ok(()) = self.networks.changed() => {
                    let networks = self.networks.borrow_and_update().clone();
                    self.set_networks(networks);
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::Edit(edits) => {
                if !std::mem::replace(&mut self.armed, true) {
                    self.known = true;
                    self.replace_all();
                }
                self.apply(edits);
            }
            Request::Options(snat, own_prefixes) => {
                if (self.ruleset.snat, self.ruleset.own_prefixes) != (snat, own_prefixes) {
                    self.ruleset.snat = snat;
                    self.ruleset.own_prefixes = own_prefixes;
                    self.snat_error = None;
                    self.due = Some(Instant::now());
                }
            }
            Request::Facts(reply) => {
                let _ = reply.send(self.facts().await);
            }
        }
    }

    /// Forgets the prefixes of the state on disk: those in use follow.
    fn replace_all(&mut self) {
        self.uncovered = None;
        let local = self.ruleset.intent.local().clone();
        let before = std::mem::take(&mut self.ruleset.intent);
        self.ruleset.intent.set_local(local);
        self.edited.extend(before.foreign().iter().chain(before.own()));
        if self.installed.is_none() {
            self.due = Some(Instant::now());
        }
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        self.uncovered = None;
        let devices = self.devices();
        let intent: &mut Intent = &mut self.ruleset.intent;
        for edit in edits {
            let net = match edit {
                Edit::Own(net) | Edit::Foreign(net) | Edit::Gone(net) => net,
            };
            match edit {
                Edit::Own(_) => intent.add(net, true),
                Edit::Foreign(_) => intent.add(net, false),
                Edit::Gone(_) => intent.remove(&net),
            }
            self.edited.extend(intent.affected([net]).into_iter().map(|key| key.net));
        }
        if devices != self.devices() {
            self.due = Some(Instant::now());
        }
    }

    fn set_networks(&mut self, networks: HostNetworks) {
        self.uncovered = None;
        let devices = self.devices();
        let affected = self.ruleset.set_networks(networks);
        self.edited.extend(affected);
        if devices != self.devices() {
            self.due = Some(Instant::now());
        }
    }

    fn devices(&self) -> [BTreeSet<u32>; 2] {
        [false, true].map(|v6| self.ruleset.site_devices(v6))
    }

    async fn record_change(&mut self, change: std::io::Result<Change>) {
        match change {
            Ok(_) if !self.known => {}
            Ok(Change::ByOther(culprit)) => {
                debug!(?culprit, "another program has changed the table");
                self.repair(Some(culprit));
            }
            Ok(Change::Unknown) => {
                if !self.is_intact().await {
                    self.repair(None);
                }
                tokio::time::sleep(OVERRUN_PAUSE).await;
            }
            Err(error) => {
                warn!(%error, "nf_tables is not watched any more");
                self.watch = None;
                self.due = self.due.or(Some(Instant::now() + RETRY_DELAY));
            }
        }
    }

    fn repair(&mut self, culprit: Option<Culprit>) {
        // A repair that is due covers this change, too.
        if self.intact || self.due.is_none() {
            self.intact = false;
            let now = Instant::now();
            self.backoff.record(culprit, now);
            // The repair is the whole table, whose time is `due` whatever the reason for it.
            self.due = Some(now + self.backoff.take_delay());
        }
    }

    /// Whether the table has as many rules and prefixes as were installed.
    async fn is_intact(&mut self) -> bool {
        let (Some(query), Some(installed)) = (&mut self.query, &self.installed) else {
            return false;
        };
        if query.rules().await.ok().as_ref() != Some(&self.rules) {
            return false;
        }
        for (map, size) in installed.sizes() {
            if query.keys(&map).await.map_or(usize::MAX, |keys| keys.len()) != size {
                return false;
            }
        }
        true
    }

    /// When the next change of the table is due.
    fn next_start(&self) -> Option<Instant> {
        let edited = self.installed.is_some() && !self.edited.is_empty();
        let edits = edited.then_some(self.next_change);
        self.due.or(edits.into_iter().chain(self.nat_retry()).min()).filter(|_| self.known)
    }

    /// When masquerading that was refused is tried again.
    fn nat_retry(&self) -> Option<Instant> {
        self.snat_error.as_ref().filter(|_| self.ruleset.snat).map(|(_, at)| *at)
    }

    /// The next change of the table, if one is due.
    fn next_work(&mut self, now: Instant) -> Option<(Script, Work)> {
        if !self.known || self.due.is_some_and(|due| due > now) {
            return None;
        }
        if self.due.is_none() && self.nat_retry().is_some_and(|at| at <= now) {
            self.due = Some(now);
        }
        let (ruleset, instance) = (&self.ruleset, &self.ruleset.instance);
        let (script, text) = match (&self.installed, self.due) {
            (Some(installed), None) if !self.edited.is_empty() => {
                if self.next_change > now {
                    return None;
                }
                self.next_change = now + CHANGE_INTERVAL;
                let edited = std::mem::take(&mut self.edited);
                let wanted = edited.into_iter().map(|net| (net, ruleset.at(&net)));
                let changes = installed.changes(wanted);
                if changes.is_empty() {
                    return None;
                }
                let text = ruleset::changes(instance, installed, &changes);
                (Script::Changes(changes), text)
            }
            (_, None) => return None,
            (_, Some(_)) => {
                self.due = None;
                self.edited.clear();
                // Without masquerading, if that is what the kernel refuses.
                let snat =
                    ruleset.snat && self.snat_error.as_ref().is_none_or(|(_, at)| *at <= now);
                let ruleset = Ruleset { snat, ..ruleset.clone() };
                let destinations = ruleset.destinations();
                let text = ruleset::table(&ruleset, &destinations, self.dropped);
                self.intact = true;
                (Script::Table { snat, destinations }, text)
            }
        };
        Some((script, self.start(text)))
    }

    /// Opens what could not be opened before.
    fn open_sockets(&mut self) {
        let table = format!("cframe-{}", self.ruleset.instance);
        let failed = |error: &std::io::Error| warn!(%error, "nf_tables cannot be watched");
        if self.query.is_none() {
            self.query = Query::open(table.clone()).inspect_err(failed).ok();
        }
        if self.watch.is_none() {
            self.watch = Watch::open(table).inspect_err(failed).ok();
        }
        if let (Some(watch), Some(query)) = (&mut self.watch, &self.query) {
            watch.ignore(query.port);
        }
    }

    fn start(&mut self, text: String) -> Work {
        // Before the change, so that what others do after it is seen.
        if self.watch.is_none() || self.query.is_none() {
            self.open_sockets();
        }
        match Nft::start() {
            Ok(nft) => {
                if let (Some(watch), Some(port)) = (&mut self.watch, nft.port()) {
                    watch.ignore(port);
                }
                Box::pin(nft.apply(text))
            }
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    async fn finish(&mut self, script: Script, result: Result<(), NftError>) {
        match (script, result) {
            (Script::Table { destinations, snat }, Ok(())) => {
                if snat {
                    self.snat_error = None;
                }
                let mut installed = Installed::default();
                installed.apply(&destinations);
                if self.error.take().is_some() {
                    info!("the firewall table is installed");
                }
                self.installed = Some(installed);
            }
            (Script::Changes(changes), Ok(())) => {
                if let Some(installed) = &mut self.installed {
                    installed.apply(&changes);
                }
            }
            (Script::Table { snat: true, .. }, Err(NftError::Refused(error))) => {
                // Tried again without it: the guard must not depend on NAT.
                self.snat_error = Some((error, Instant::now() + NAT_RETRY_DELAY));
                self.due = Some(Instant::now());
            }
            (Script::Table { .. }, Err(error)) => {
                // Then masquerading was not the reason.
                self.snat_error = None;
                self.refuse(error);
            }
            (Script::Changes(_), Err(error)) => {
                // Another program has changed it meanwhile.
                debug!(%error, "prefixes were refused; writing the whole table");
                self.repair(None);
            }
        }
        if self.watch.is_none() && self.due.is_none() {
            self.due = Some(Instant::now() + RETRY_DELAY);
        }
        if let Some(query) = &mut self.query {
            self.rules = query.rules().await.unwrap_or_default();
        }
    }

    fn refuse(&mut self, error: NftError) {
        self.installed = None;
        self.error = Some(error);
        self.due = Some(Instant::now() + RETRY_DELAY);
    }

    async fn facts(&mut self) -> FirewallFacts {
        let now = Instant::now();
        if let (Some(query), true) = (&mut self.query, self.installed.is_some() && self.intact) {
            self.dropped = query.dropped().await.unwrap_or(self.dropped);
        }
        let intent = &self.ruleset.intent;
        FirewallFacts {
            table: ruleset::name(&self.ruleset.instance),
            wanted: self.known && !(intent.foreign().is_empty() && intent.own().is_empty()),
            in_force: self.installed.is_some() && self.intact && self.watch.is_some(),
            install_nft: matches!(self.error, Some(NftError::Missing(_))).then(nft_installer),
            error: self.error.as_ref().map(NftError::to_string),
            snat: self.ruleset.snat,
            snat_error: self.snat_error.as_ref().map(|(error, _)| error.clone()),
            undone: self.backoff.undone(now),
            dropped: self.dropped,
            own_prefixes: self.ruleset.own_prefixes,
            uncovered: self.uncovered().await,
        }
    }

    /// Asks the kernel by which device packets for the rest of the site's prefixes would leave.
    async fn uncovered(&mut self) -> Vec<Uncovered> {
        let ruleset = &self.ruleset;
        let nets = self.uncovered.get_or_insert_with(|| ruleset.uncovered(MAX_UNCOVERED));
        if nets.is_empty() {
            return Vec::new();
        }
        if self.kernel.as_ref().is_none_or(Kernel::is_lost) {
            self.kernel = Kernel::open().ok();
        }
        let (Some(kernel), Some(query)) = (&self.kernel, &self.query) else { return Vec::new() };
        let mut uncovered = Vec::new();
        for (net, address) in nets.iter().copied() {
            // Without a route they go nowhere.
            let Ok(Some(exit)) = kernel.exit(address, 0).await else { continue };
            let device = query.device_name(exit.device);
            if device == self.ruleset.instance.name() || device == "lo" {
                continue;
            }
            let guarded = self.ruleset.at(&net) == Some(ruleset::Destination::Uncovered);
            let may_leave = self.ruleset.site_devices(address.is_ipv6()).contains(&exit.device);
            uncovered.push(Uncovered { net, device, allowed: !guarded || may_leave });
        }
        uncovered
    }
}

/// Waits for the end of the work under way.
async fn finished(running: &mut Option<(Script, Work)>) -> Result<(), NftError> {
    match running {
        Some((_, work)) => work.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn next_change(watch: &mut Option<Watch>) -> std::io::Result<Change> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

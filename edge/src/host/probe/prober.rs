//! Rounds of probes, and what came of each.

mod analysis;
mod port;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{
    Arrivals, Site,
    cause::Path,
    facts::{Direction, Finding, Flow, ForwardingFacts, Outcome},
    nft::{self, Reader},
    packet::{Kind, Packet},
    plan::{self, Lan, Probe},
    survey::{self, Names},
    tap::Tap,
};
use crate::{
    host::{
        driver::probes::{Arrival, Injector, Magic},
        netlink::{Kernel, Passage},
        sysctl,
    },
    instance::Instance,
};

/// How long probes may take.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Between two looks at the counted ones: they have passed by then unless the host is busy.
const STEP: Duration = Duration::from_millis(10);
/// How long the result of an analysis holds while the rules stay the same.
const ANALYSIS_LIFE: Duration = Duration::from_secs(20);
/// Rounds in which packets must be lost if no rule is found that drops them: a busy host loses some, too.
const MIN_MISSES: u32 = 3;
/// Probes of one direction that are tried again in each round because they were lost.
const MAX_SUSPECTS: usize = 12;
/// Addresses that a text lists.
const MAX_LISTED: usize = 3;
/// How long a part that is missing is not tried again.
const RETRY_DELAY: Duration = Duration::from_secs(15);

/// A direction at a device, in one family.
type Key = (Path, u32, bool);

/// Sends probes and finds out why some do not arrive.
#[derive(Debug)]
pub(super) struct Prober {
    means: Means,
    names: Names,
    turn: usize,
    suspects: BTreeSet<Probe>,
    /// What does not pass, by what is known of it.
    known: BTreeMap<Key, Known>,
    port: port::Known,
    /// The number of the ruleset that was seen last.
    generation: u32,
}

/// What probes are sent and seen with.
#[derive(Debug)]
struct Means {
    instance: Instance,
    magic: Magic,
    injector: Injector,
    arrivals: tokio::sync::mpsc::Receiver<Arrival>,
    kernel: Option<Kernel>,
    tap: Result<Tap, Missing>,
    reader: Option<Reader>,
    /// Why the table is not there.
    table: Result<(), Missing>,
    next_id: u64,
}

/// A part that cannot be had, and when that was seen.
#[derive(Clone, Debug)]
struct Missing(String, Option<Instant>);

#[derive(Debug)]
struct Known {
    /// Rounds in a row without a packet that arrived.
    misses: u32,
    outcome: Option<Outcome>,
    generation: u32,
    at: Instant,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// With this source.
    Arrived(IpAddr),
    Lost,
}

impl Prober {
    pub(super) fn new(instance: Instance, injector: Injector, arrivals: Arrivals) -> Self {
        let Arrivals { magic, receiver } = arrivals;
        let unknown = || Missing(String::new(), None);
        let means = Means {
            instance,
            magic,
            injector,
            arrivals: receiver,
            kernel: Kernel::open().ok(),
            tap: Err(unknown()),
            reader: Reader::open().ok(),
            table: Err(unknown()),
            next_id: u64::from(u16::from_be_bytes([magic[0], magic[1]])),
        };
        Self {
            means,
            names: Names::default(),
            turn: 0,
            suspects: BTreeSet::new(),
            known: BTreeMap::new(),
            port: port::Known::default(),
            generation: 0,
        }
    }

    /// Whether something does not pass.
    pub(super) fn has_suspects(&self) -> bool {
        !self.known.is_empty() || self.port.is_suspect()
    }

    /// Whether the host's firewall is another one than at the last call.
    pub(super) fn rules_have_changed(&mut self) -> bool {
        let generation = self.means.generation();
        std::mem::replace(&mut self.generation, generation) != generation
    }

    /// Measures everything once.
    pub(super) async fn round(&mut self, site: &Site) -> ForwardingFacts {
        self.turn = self.turn.wrapping_add(1);
        let mut facts = ForwardingFacts::default();
        let (Some(tun), false) = (site.tun, site.cut) else {
            // Another check says so.
            self.known.clear();
            return facts;
        };
        facts.unmeasured = self.means.prepare().await.err();
        self.generation = self.means.generation();
        match self.lans(site).await {
            Ok(lans) => {
                let probes = plan::round(&lans, &site.foreign, &self.suspects, self.turn);
                facts.flows = self.measure(&probes, &lans, site, tun).await;
            }
            Err(error) => facts.unmeasured = Some(error),
        }
        facts.port = self.measure_port(site).await;
        facts
    }

    async fn lans(&mut self, site: &Site) -> Result<Vec<Lan>, String> {
        let kernel = self.means.kernel.as_ref().ok_or("no netlink socket")?;
        let lans = survey::lans(kernel, site, &mut self.names, self.turn).await;
        let lans = lans.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        if let Ok(tap) = &mut self.means.tap {
            let mut failed = None;
            for lan in &lans {
                failed = tap.add_target(lan.device, kernel).await.err().or(failed);
            }
            if let Some(error) = failed {
                self.means.tap = Err(Missing(error.clone(), Some(Instant::now())));
                return Err(error);
            }
        }
        Ok(lans)
    }

    async fn measure(
        &mut self,
        probes: &[Probe],
        lans: &[Lan],
        site: &Site,
        tun: u32,
    ) -> Vec<Flow> {
        let results = self.means.try_twice(probes, Kind::Udp).await;
        let mut flows: BTreeMap<Key, Vec<(Probe, Seen)>> = BTreeMap::new();
        for (probe, seen) in results {
            let key = (probe.path, probe.device, probe.to.is_ipv6());
            flows.entry(key).or_default().push((probe, seen));
        }
        self.suspects.clear();
        self.known.retain(|key, _| flows.contains_key(key));
        let mut outcomes: BTreeMap<Key, Outcome> = BTreeMap::new();
        let mut unclear = BTreeMap::new();
        for (key, results) in flows {
            let bad: Vec<(Probe, Seen)> = results
                .iter()
                .filter(|(probe, seen)| !passes(probe, seen, site))
                .copied()
                .collect();
            if bad.is_empty() {
                self.known.remove(&key);
                outcomes.insert(key, Outcome::Passed);
                continue;
            }
            self.suspects.extend(bad.iter().map(|(probe, _)| *probe).take(MAX_SUSPECTS));
            let mut left = Vec::new();
            let mut otherwise = Outcome::Elsewhere;
            for bad in &bad {
                match self.elsewhere(key, *bad, tun).await {
                    None => left.push(*bad),
                    Some(outcome @ Outcome::Blocked(_)) => otherwise = outcome,
                    Some(_) => {}
                }
            }
            if !left.is_empty() {
                unclear.insert(key, (left, results.len()));
                continue;
            }
            if bad.len() < results.len() && otherwise == Outcome::Elsewhere {
                otherwise = Outcome::Passed;
            }
            outcomes.insert(key, otherwise);
        }
        outcomes.extend(self.explain(unclear, site).await);
        let name = |device: u32| {
            let lan = lans.iter().find(|lan| lan.device == device);
            lan.map_or_else(|| self.names.name(device), |lan| lan.name.clone())
        };
        let flow = |((path, device, v6), outcome)| Flow {
            direction: if path == Path::Out { Direction::ToMesh } else { Direction::ToSite },
            device: name(device),
            v6,
            outcome,
        };
        outcomes.into_iter().map(flow).collect()
    }

    /// The outcome if the firewall is not the cause.
    async fn elsewhere(&self, key: Key, bad: (Probe, Seen), tun: u32) -> Option<Outcome> {
        let (path, device, v6) = key;
        let (probe, Seen::Lost) = bad else { return None };
        let (enters, leaves) = if path == Path::Out { (device, tun) } else { (tun, device) };
        let tun_name = self.means.instance.name();
        let name = if path == Path::Out { self.names.name(device) } else { tun_name.to_owned() };
        let forwarding = match v6 {
            false => format!("ipv4/conf/{name}/forwarding"),
            true => "ipv6/conf/all/forwarding".to_owned(),
        };
        if sysctl::number(&forwarding) == Some(0) {
            return Some(Outcome::Elsewhere);
        }
        let kernel = self.means.kernel.as_ref()?;
        match kernel.passage(probe.to, Some((probe.from, enters))).await.ok()? {
            Passage::Device { index, .. } if index == leaves => None,
            Passage::ReversePath => Some(Outcome::Blocked(Finding {
                text: format!(
                    "packets from {} that arrive by {name} are dropped by its reverse path filter: the way \
                     back is through another device",
                    probe.from
                ),
                fix: Some(format!(
                    "sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{name}.rp_filter=2"
                )),
            })),
            Passage::Device { .. } | Passage::Local | Passage::None => Some(Outcome::Elsewhere),
        }
    }

    /// Outcomes of what the firewall, or something unknown, keeps from passing.
    async fn explain(
        &mut self,
        unclear: BTreeMap<Key, (Vec<(Probe, Seen)>, usize)>,
        site: &Site,
    ) -> BTreeMap<Key, Outcome> {
        let mut due = BTreeMap::new();
        for (key, (bad, _)) in &unclear {
            let generation = self.generation;
            let known = self.known.entry(*key).or_insert_with(|| Known {
                misses: 0,
                outcome: None,
                generation: generation.wrapping_sub(1),
                at: Instant::now(),
            });
            known.misses = known.misses.saturating_add(1);
            let is_known = known.outcome.is_some()
                && known.generation == generation
                && known.at.elapsed() < ANALYSIS_LIFE;
            if !is_known {
                due.insert(*key, bad.clone());
            }
        }
        let verdicts = match due.is_empty() {
            true => BTreeMap::new(),
            false => self.analyse(&due, site).await,
        };
        let mut outcomes = BTreeMap::new();
        for (key, (bad, tried)) in unclear {
            let generation = self.generation;
            let Some(known) = self.known.get_mut(&key) else { continue };
            if let Some(verdict) = verdicts.get(&key) {
                known.outcome =
                    verdict.outcome(key, &bad, tried, known.misses, &self.names, &site.foreign);
                (known.generation, known.at) = (generation, Instant::now());
            }
            outcomes.insert(key, known.outcome.clone().unwrap_or(Outcome::Passed));
        }
        outcomes
    }
}

/// Whether a probe arrived as it was sent, or with another source that may pass.
fn passes(probe: &Probe, seen: &Seen, site: &Site) -> bool {
    match seen {
        Seen::Lost => false,
        Seen::Arrived(source) => {
            *source == probe.from || site.own.iter().any(|net| net.contains(source))
        }
    }
}

impl Means {
    /// Makes what is missing.
    ///
    /// # Errors
    /// A text that says what cannot be measured and why.
    async fn prepare(&mut self) -> Result<(), String> {
        if self.kernel.as_ref().is_none_or(Kernel::is_lost) {
            self.kernel = Kernel::open().ok();
        }
        let Some(kernel) = &self.kernel else { return Err("no netlink socket".to_owned()) };
        if let Err(missing) = &self.tap
            && missing.is_due()
        {
            let tap = Tap::open(&self.instance, kernel).await;
            self.tap = tap.map_err(|text| Missing(text, Some(Instant::now())));
        }
        // An earlier process may have left the table, with its own number.
        let is_there = self.table.is_ok() && self.counted().is_ok();
        let is_due = match &self.table {
            Ok(()) => true,
            Err(missing) => missing.is_due(),
        };
        if !is_there && is_due {
            self.make_table().await;
        }
        let missing = |part: &Missing| part.0.clone();
        match (&self.tap, &self.table) {
            (Ok(_), Ok(())) => Ok(()),
            (Err(tap), Ok(())) => Err(format!("packets into the mesh: {}", missing(tap))),
            (Ok(_), Err(table)) => Err(format!("packets into the site: {}", missing(table))),
            (Err(tap), Err(table)) => Err(format!("{}; {}", missing(tap), missing(table))),
        }
    }

    async fn make_table(&mut self) {
        let result = nft::run(&nft::count_script(&self.instance, self.magic)).await;
        self.table = result.map_err(|text| Missing(text, Some(Instant::now())));
    }

    fn generation(&self) -> u32 {
        self.reader.as_ref().and_then(|reader| reader.generation().ok()).unwrap_or_default()
    }

    fn counted(&self) -> io::Result<BTreeSet<u16>> {
        match &self.reader {
            Some(reader) => reader.counted(&self.instance),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Sends probes, and those that are lost once more.
    async fn try_twice(&mut self, probes: &[Probe], kind: Kind) -> Vec<(Probe, Seen)> {
        let first = self.try_once(probes, kind).await;
        let lost: Vec<Probe> =
            first.iter().filter(|(_, seen)| *seen == Seen::Lost).map(|(probe, _)| *probe).collect();
        if lost.is_empty() {
            return first;
        }
        let second = self.try_once(&lost, kind).await;
        let arrived = first.into_iter().filter(|(_, seen)| *seen != Seen::Lost);
        arrived.chain(second).collect()
    }

    /// Probes that cannot be measured are left out of the result.
    async fn try_once(&mut self, probes: &[Probe], kind: Kind) -> Vec<(Probe, Seen)> {
        while self.arrivals.try_recv().is_ok() {}
        let mut sent: Vec<(Probe, Packet)> = Vec::new();
        let mut seen: BTreeMap<u64, IpAddr> = BTreeMap::new();
        let mut injected = Vec::new();
        for probe in probes {
            let packet = self.packet(probe, kind);
            if self.can_measure(probe) {
                injected.extend(self.send(probe, &packet));
                sent.push((*probe, packet));
            }
        }
        self.injector.inject(injected);
        let end = Instant::now() + TIMEOUT;
        while seen.len() < sent.len() && Instant::now() < end {
            if let Ok(Some(Arrival { id, source })) = timeout(STEP, self.arrivals.recv()).await {
                seen.insert(id, source);
                while let Ok(Arrival { id, source }) = self.arrivals.try_recv() {
                    seen.insert(id, source);
                }
            }
            let waits = |(probe, packet): &&(Probe, Packet)| {
                probe.path == Path::In && !seen.contains_key(&packet.id)
            };
            if sent.iter().any(|sent| waits(&sent)) {
                let Ok(ports) = self.counted() else {
                    // Another program has removed the table meanwhile.
                    sent.retain(|(probe, _)| probe.path != Path::In);
                    continue;
                };
                for (probe, packet) in sent.iter().filter(|(probe, _)| probe.path == Path::In) {
                    if ports.contains(&packet.to.1) {
                        seen.insert(packet.id, probe.from);
                    }
                }
            }
        }
        let result = |(probe, packet): &(Probe, Packet)| {
            (*probe, seen.get(&packet.id).map_or(Seen::Lost, |source| Seen::Arrived(*source)))
        };
        sent.iter().map(result).collect()
    }

    fn can_measure(&self, probe: &Probe) -> bool {
        match probe.path {
            Path::Out | Path::PortIn => self.tap.is_ok(),
            Path::In => self.table.is_ok(),
            Path::PortOut => false,
        }
    }

    /// Sends a packet, or returns its bytes if it has to be written into the TUN.
    fn send(&self, probe: &Probe, packet: &Packet) -> Option<Vec<u8>> {
        let bytes = packet.bytes(self.magic)?;
        if probe.path == Path::In {
            return Some(bytes);
        }
        if let Ok(tap) = &self.tap {
            // What cannot be sent counts as lost.
            let _ = tap.send(probe.device, &bytes);
        }
        None
    }

    /// A packet of a new flow.
    fn packet(&mut self, probe: &Probe, kind: Kind) -> Packet {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        // Each flow has a port of its own, so that the firewall's decisions on flows are made again.
        let from = 32_768 + (id.wrapping_mul(0x9e37_79b9) >> 8) as u16 % 28_000;
        let to = nft::FIRST_PORT + (id % u64::from(nft::PORTS)) as u16;
        Packet { kind, from: (probe.from, from), to: (probe.to, to), id }
    }
}

impl Missing {
    fn is_due(&self) -> bool {
        self.1.is_none_or(|at| at.elapsed() > RETRY_DELAY)
    }
}

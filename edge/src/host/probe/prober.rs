//! Rounds of probes, and what came of each.

mod analysis;
mod bypass;
mod means;
mod port;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    Arrivals, Site,
    cause::{Path, Tools},
    facts::{Direction, Finding, Flow, ForwardingFacts, Outcome},
    nft::Reader,
    packet::Kind,
    plan::{self, Lan, Probe},
    survey::{self, Names},
    tap::Tap,
};
use crate::{
    host::{
        command,
        driver::probes::{Arrival, Injector, Magic},
        netlink::{Kernel, Passage},
        sysctl,
    },
    instance::Instance,
};
use verdict::{Life, Verdict};

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

/// What is tried besides small UDP datagrams.
const OTHER_KINDS: [Kind; 3] = [Kind::Large, Kind::TcpSyn, Kind::Echo];

/// Packets of a kind, in a direction at a device, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    path: Path,
    device: u32,
    v6: bool,
    kind: Kind,
}

/// Sends probes and finds out why some do not arrive.
#[derive(Debug)]
pub(super) struct Prober {
    means: Means,
    names: Names,
    turn: usize,
    suspects: BTreeSet<Probe>,
    /// What does not pass, by what is known of it.
    known: BTreeMap<Key, Known>,
    /// Programs of the host, and when they were looked for.
    tools: Option<(Tools, Instant)>,
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
    egress: Egress,
}

/// Where probes are counted when they leave, because another program has rules there.
#[derive(Debug, Default)]
struct Egress {
    /// Numbers and names.
    devices: BTreeMap<u32, String>,
    neighbours: BTreeSet<IpAddr>,
}

/// A part that cannot be had, and when that was seen.
#[derive(Clone, Debug)]
struct Missing(String, Option<Instant>);

#[derive(Debug)]
struct Known {
    /// Rounds in a row without a packet that arrived.
    misses: u32,
    /// With how long it holds.
    verdict: Option<(Verdict, Life)>,
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
            egress: Egress::default(),
        };
        Self {
            means,
            names: Names::default(),
            turn: 0,
            suspects: BTreeSet::new(),
            known: BTreeMap::new(),
            tools: None,
            port: port::Known::default(),
            generation: 0,
        }
    }

    /// Whether something does not pass, and has not been so for long.
    pub(super) fn has_suspects(&self) -> bool {
        let is_settled =
            |known: &Known| known.verdict.as_ref().is_some_and(|(_, life)| life.is_settled());
        !self.known.values().all(is_settled) || self.port.is_suspect()
    }

    /// Records that this process has changed the rules.
    fn follow(&mut self, before: u32, after: u32) {
        let seen = std::mem::replace(&mut self.generation, after);
        // Others may have changed them before that.
        if seen == before {
            let lives = self.known.values_mut().filter_map(|known| known.verdict.as_mut());
            for (_, life) in lives {
                life.follow(before, after);
            }
            self.port.follow(before, after);
        }
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
                facts.dead = self.names.dead(&lans);
                self.means.watch_egress(&lans).await;
                let kinds = self.means.other_kinds();
                let probes = plan::round(&lans, &site.foreign, &self.suspects, self.turn, kinds);
                let (results, error) = self.try_all(&probes, &lans).await;
                facts.unmeasured = facts.unmeasured.take().or(error);
                facts.flows = self.measure(results, &lans, site, tun).await;
            }
            Err(error) => facts.unmeasured = Some(error),
        }
        facts.own_addresses = self.own_addresses(site).await;
        facts.port = self.measure_port(site).await;
        facts
    }

    async fn lans(&mut self, site: &Site) -> Result<Vec<Lan>, String> {
        let kernel = self.means.kernel.as_ref().ok_or("no netlink socket")?;
        let lans = survey::lans(kernel, site, &mut self.names, self.turn).await;
        let lans = lans.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        self.means.add_targets(&lans).await?;
        Ok(lans)
    }

    async fn own_addresses(&self, site: &Site) -> Vec<IpNet> {
        let one_address = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let Some(kernel) = &self.means.kernel else { return Vec::new() };
        if !site.own.iter().any(one_address) {
            return Vec::new();
        }
        let addresses = kernel.host_addresses().await.unwrap_or_default();
        let addresses = addresses.into_iter().map(|address| address.ip).collect();
        survey::own_addresses(&site.own, &addresses)
    }

    /// Sends the probes. The second value says what of it cannot be measured.
    async fn try_all(
        &mut self,
        probes: &[Probe],
        lans: &[Lan],
    ) -> (Vec<(Probe, Seen)>, Option<String>) {
        let mut results = self.means.try_twice(probes).await;
        let is_lost =
            |(probe, seen): &(Probe, Seen)| probe.path == Path::Out && *seen == Seen::Lost;
        let lost = |results: &[(Probe, Seen)]| -> Vec<Probe> {
            results.iter().filter(|result| is_lost(result)).map(|(probe, _)| *probe).collect()
        };
        if lost(&results).is_empty() || self.means.can_send().await {
            return (results, None);
        }
        // The device by which they enter was changed meanwhile: they say nothing of the host.
        let again = lost(&results);
        results.retain(|result| !is_lost(result));
        let renewed = match self.means.prepare().await {
            Ok(()) => self.means.add_targets(lans).await,
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            return (results, Some(error));
        }
        let second = self.means.try_twice(&again).await;
        if lost(&second).is_empty() || self.means.can_send().await {
            results.extend(second);
            return (results, None);
        }
        results.extend(second.into_iter().filter(|result| !is_lost(result)));
        let text =
            "packets into the mesh: another program changes the device for them again and again";
        (results, Some(text.to_owned()))
    }

    async fn measure(
        &mut self,
        results: Vec<(Probe, Seen)>,
        lans: &[Lan],
        site: &Site,
        tun: u32,
    ) -> Vec<Flow> {
        let mut flows: BTreeMap<Key, Vec<(Probe, Seen)>> = BTreeMap::new();
        for (probe, seen) in results {
            let (v6, kind) = (probe.to.is_ipv6(), probe.kind);
            let key = Key { path: probe.path, device: probe.device, v6, kind };
            flows.entry(key).or_default().push((probe, seen));
        }
        self.suspects.clear();
        self.known.retain(|key, _| flows.contains_key(key));
        let mut outcomes: BTreeMap<Key, Outcome> = BTreeMap::new();
        let mut unclear = BTreeMap::new();
        let passing: BTreeSet<Key> = flows
            .iter()
            .filter(|(_, results)| results.iter().any(|(probe, seen)| passes(probe, seen, site)))
            .map(|(key, _)| *key)
            .collect();
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
            let (left, mut otherwise) = self.all_elsewhere(key, &bad, tun, site).await;
            // Where no UDP passes, the other kinds say no more.
            let udp = Key { kind: Kind::Udp, ..key };
            if key != udp && !passing.contains(&udp) {
                continue;
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
        outcomes.extend(self.explain(unclear, &passing, site).await);
        let name = |device: u32| {
            let lan = lans.iter().find(|lan| lan.device == device);
            lan.map_or_else(|| self.names.name(device), |lan| lan.name.clone())
        };
        let mut flows: BTreeMap<(Path, u32, bool), Outcome> = BTreeMap::new();
        for (Key { path, device, v6, .. }, outcome) in outcomes {
            // The kinds are in order: what UDP datagrams meet says most.
            let worst = flows.entry((path, device, v6)).or_insert(Outcome::Passed);
            if outcome.rank() > worst.rank() {
                *worst = outcome;
            }
        }
        let flow = |((path, device, v6), outcome)| Flow {
            direction: if path == Path::Out { Direction::ToMesh } else { Direction::ToSite },
            device: name(device),
            v6,
            outcome,
        };
        flows.into_iter().map(flow).collect()
    }

    /// Those of the probes of which the firewall may be the cause, and the outcome of the others.
    async fn all_elsewhere(
        &self,
        key: Key,
        bad: &[(Probe, Seen)],
        tun: u32,
        site: &Site,
    ) -> (Vec<(Probe, Seen)>, Outcome) {
        let mut left = Vec::new();
        let mut otherwise = Outcome::Elsewhere;
        for bad in bad {
            match self.elsewhere(key, *bad, tun, site).await {
                None => left.push(*bad),
                Some(outcome @ Outcome::Blocked(_)) => otherwise = outcome,
                // The others may have the same cause, and reading the rules again costs time.
                Some(outcome @ Outcome::Bypassed(_)) => return (Vec::new(), outcome),
                Some(_) => {}
            }
        }
        (left, otherwise)
    }

    /// The outcome if the firewall is not the cause.
    async fn elsewhere(
        &self,
        key: Key,
        bad: (Probe, Seen),
        tun: u32,
        site: &Site,
    ) -> Option<Outcome> {
        let Key { path, device, v6, .. } = key;
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
        let passage = kernel.passage(probe.to, Some((probe.from, enters))).await.ok()?;
        if path == Path::In && !matches!(passage, Passage::ReversePath | Passage::Local) {
            let bypassed = self.bypassed(kernel, &probe, tun, site).await;
            if let Some(finding) = bypassed {
                return Some(Outcome::Bypassed(finding));
            }
        }
        match passage {
            Passage::Device { index, .. } if index == leaves => None,
            Passage::ReversePath => Some(Outcome::Blocked(Finding {
                text: format!(
                    "packets from {} that arrive by {name} are dropped by its reverse path filter: the way \
                     back is through another device",
                    probe.from
                ),
                // The greater of this value and that of `all` counts, and 2 is the greatest.
                fix: command::sysctl(&format!("ipv4/conf/{name}/rp_filter"), 2),
            })),
            Passage::Device { .. } | Passage::Local | Passage::None => Some(Outcome::Elsewhere),
        }
    }

    /// Outcomes of what the firewall, or something unknown, keeps from passing.
    async fn explain(
        &mut self,
        unclear: BTreeMap<Key, (Vec<(Probe, Seen)>, usize)>,
        passing: &BTreeSet<Key>,
        site: &Site,
    ) -> BTreeMap<Key, Outcome> {
        let mut due = BTreeMap::new();
        for (key, (bad, _)) in &unclear {
            let known = self.known.entry(*key).or_insert(Known { misses: 0, verdict: None });
            known.misses = known.misses.saturating_add(1);
            let holds = |(_, life): &(Verdict, Life)| life.holds(self.generation);
            if !known.verdict.as_ref().is_some_and(holds) {
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
            let tcp_passes = passing.contains(&Key { kind: Kind::TcpSyn, ..key });
            let seen = verdict::Observed {
                key,
                bad: &bad,
                all: bad.len() == tried,
                misses: known.misses,
                tcp_passes,
            };
            let found = verdicts.get(&key);
            let verdict = found.or(known.verdict.as_ref().map(|(verdict, _)| verdict));
            let outcome = verdict.and_then(|it| it.outcome(&seen, &self.names, &site.foreign));
            if let Some(verdict) = found {
                // What may be intended is there to stay; an error is not, and its fix must be seen soon.
                let may_stay = matches!(outcome, Some(Outcome::Partly(_)));
                let life = match &known.verdict {
                    Some((Verdict::Passes, _)) if matches!(verdict, Verdict::Passes) => {
                        Life::new(generation, verdict::MIN_LIFE)
                    }
                    Some((last, life)) if may_stay && last.is_like(verdict) => {
                        life.longer(generation)
                    }
                    _ => Life::new(generation, verdict.life()),
                };
                known.verdict = Some((verdict.clone(), life));
            }
            outcomes.insert(key, outcome.unwrap_or(Outcome::Passed));
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

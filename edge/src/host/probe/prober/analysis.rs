//! Which rule keeps probes from arriving: they are sent again and traced.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::process::Command;

use super::{Key, MAX_LISTED, Means, Prober, Seen, verdict::Verdict};
use crate::host::probe::{
    Site,
    cause::{self, Cause, Context, Path, Tools},
    legacy, nft,
    packet::{Kind, Packet},
    plan::Probe,
    trace::{self, Place, Trace},
};

/// Probes of one direction that are traced.
const MAX_TRACED: usize = 2;
/// How long it holds which programs the host has.
const TOOLS_LIFE: Duration = Duration::from_secs(60);
/// Packets with which rules are found by their counters.
const COUNTED: u64 = 10;
const COUNT_DELAY: Duration = Duration::from_millis(30);
/// TCP ports that are tried if UDP does not pass: a firewall may let only some services pass.
const COMMON_PORTS: [u16; 6] = [22, 80, 443, 3306, 5432, 8080];
/// Ports that are tried because rules name them.
const MAX_NAMED_PORTS: usize = 24;

/// A probe that is sent with ports of its own, by which its trace is found.
struct Traced {
    key: Key,
    probe: Probe,
    seen: Seen,
    port: u16,
}

/// A packet of another kind that was sent beside a probe.
struct Alternative {
    key: Key,
    probe: Probe,
    id: u64,
    /// How a trace shows it.
    shown: String,
    name: String,
}

impl Prober {
    /// Looks for the causes of what does not pass.
    pub(super) async fn analyse(
        &mut self,
        due: &BTreeMap<Key, Vec<(Probe, Seen)>>,
        site: &Site,
    ) -> BTreeMap<Key, Verdict> {
        self.analyse_from(due, 0, site).await
    }

    /// The same for the mesh's own packets; `source_port` is 0 for a new flow.
    pub(super) async fn analyse_from(
        &mut self,
        due: &BTreeMap<Key, Vec<(Probe, Seen)>>,
        source_port: u16,
        site: &Site,
    ) -> BTreeMap<Key, Verdict> {
        let mut traced: Vec<Traced> = Vec::new();
        for (key, bad) in due {
            for (probe, seen) in bad.iter().take(MAX_TRACED) {
                let first = self.means.first_port(probe);
                let own = first + (traced.len() as u16) % nft::PORTS;
                let port = if source_port == 0 { own } else { source_port };
                traced.push(Traced { key: *key, probe: *probe, seen: *seen, port });
            }
        }
        let tools = self.tools().await;
        let before = self.means.generation();
        let mut verdicts = BTreeMap::new();
        let devices: BTreeSet<String> =
            traced.iter().map(|traced| self.device_in(&traced.key)).collect();
        let (traces, passing) = self.means.trace(&traced, (&COMMON_PORTS, &devices), site).await;
        // What else has changed meanwhile is seen as a change.
        self.follow(before, before.wrapping_add(trace::CHANGES));
        let traces = match traces {
            Ok(traces) => traces,
            Err(error) => {
                let text = format!("the rule cannot be looked for: {error}");
                let unknown = || Verdict::Unknown(Cause { text: text.clone(), fix: None });
                return due.keys().map(|key| (*key, unknown())).collect();
            }
        };
        let mut named = Vec::new();
        for traced in &traced {
            let trace = find(&traces, traced);
            if let Some(place) = trace.and_then(|trace| trace.dropped.as_ref()) {
                named.extend(named_ports(place).await);
            }
            let verdict = self.verdict(traced, trace, site, &tools).await;
            // A rule that was found for one of them says more than another one that has passed.
            let is_better = !matches!(verdict, Verdict::Passes | Verdict::Unknown(_));
            if is_better || !verdicts.contains_key(&traced.key) {
                verdicts.insert(traced.key, verdict);
            }
        }
        add_passing(&mut verdicts, &passing);
        // Ping alone is no service.
        let is_ping = |name: &String| name == "ping";
        let open = |verdict: &Verdict| matches!(verdict, Verdict::Dropped { partly, .. } if partly.iter().all(is_ping));
        named.sort_unstable();
        named.dedup();
        named.retain(|port| !COMMON_PORTS.contains(port));
        named.truncate(MAX_NAMED_PORTS);
        if !named.is_empty() && verdicts.values().any(open) {
            let (_, passing) = self.means.trace(&traced, (&named, &devices), site).await;
            self.follow(self.generation, self.generation.wrapping_add(trace::CHANGES));
            add_passing(&mut verdicts, &passing);
        }
        verdicts
    }

    /// Programs that can undo rules, as they were found a short time ago.
    async fn tools(&mut self) -> Tools {
        match &self.tools {
            Some((tools, at)) if at.elapsed() < TOOLS_LIFE => tools.clone(),
            _ => {
                let tools = tools().await;
                self.tools = Some((tools.clone(), Instant::now()));
                tools
            }
        }
    }

    /// The device by which probes come in.
    fn device_in(&self, key: &Key) -> String {
        match key.path {
            Path::In => self.means.instance.name().to_owned(),
            Path::Out | Path::PortIn | Path::PortOut => self.names.name(key.device),
        }
    }

    async fn verdict(
        &mut self,
        traced: &Traced,
        trace: Option<&Trace>,
        site: &Site,
        tools: &Tools,
    ) -> Verdict {
        let Key { path, device, v6, .. } = traced.key;
        let foreign: Vec<IpNet> =
            site.foreign.iter().filter(|net| net.addr().is_ipv6() == v6).copied().collect();
        let (tun, device) = (self.means.instance.name().to_owned(), self.names.name(device));
        let port = site.port.listen;
        let context = Context {
            path,
            v6,
            tun: &tun,
            device: &device,
            foreign: &foreign,
            port,
            mark: site.port.mark,
            tools,
        };
        if let Seen::Arrived(_) = traced.seen {
            if let Some(place) = trace.and_then(|trace| trace.source_nat.as_ref()) {
                return Verdict::SourceNat(cause::of_source_nat(place, &context));
            }
            let rule = self.means.legacy_rule(traced, tools, true, site).await;
            let unknown =
                || Cause { text: "the rule that does that was not found".to_owned(), fix: None };
            let cause = rule.map(|rule| cause::of_legacy(&rule, "postrouting", &context));
            return Verdict::SourceNat(cause.unwrap_or_else(unknown));
        }
        if let Some(trace) = trace {
            if let Some(place) = &trace.dropped {
                // The guard keeps packets from leaving in the clear: routing is wrong, which is reported.
                if place.table == format!("cframe-{tun}") {
                    return Verdict::Guarded;
                }
                let cause = cause::of_drop(trace, place, &context);
                return Verdict::Dropped { cause, partly: Vec::new(), legacy: false };
            }
            if let Some(place) = &trace.destination_nat {
                let cause = cause::of_destination_nat(place, &context);
                return Verdict::Dropped { cause, partly: Vec::new(), legacy: false };
            }
            let last = trace.reached.last().map(String::as_str);
            let end = if path == Path::PortIn { "input-last" } else { "postrouting-last" };
            if trace.counted || last == Some(end) {
                return Verdict::Passes;
            }
        }
        let hook = trace.map_or("prerouting", cause::hook);
        if let Some(rule) = self.means.legacy_rule(traced, tools, false, site).await {
            let cause = cause::of_legacy(&rule, hook, &context);
            return Verdict::Dropped { cause, partly: Vec::new(), legacy: true };
        }
        Verdict::Unknown(cause::of_place(trace))
    }
}

impl Means {
    /// Sends probes and packets of other kinds while they are traced. Returns the traces, and the kinds
    /// that pass.
    async fn trace(
        &mut self,
        traced: &[Traced],
        (ports, devices): (&[u16], &BTreeSet<String>),
        site: &Site,
    ) -> (Result<Vec<Trace>, String>, BTreeMap<Key, Vec<String>>) {
        let (instance, magic) = (self.instance.clone(), self.magic);
        while self.arrivals.try_recv().is_ok() {}
        let mut alternatives: Vec<Alternative> = Vec::new();
        let send = || {
            for traced in traced {
                self.send_traced(traced, site);
                if alternatives.len() < 1000 {
                    alternatives.extend(self.send_alternatives(traced, ports));
                }
            }
        };
        let all = |traces: &[Trace]| traced.iter().all(|traced| find(traces, traced).is_some());
        let traces = trace::run(&instance, magic, (site.port.listen, devices), send, all).await;
        let mut arrived = Vec::new();
        while let Ok(arrival) = self.arrivals.try_recv() {
            arrived.push(arrival.id);
        }
        let mut passing: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for Alternative { key, probe, id, shown, name } in alternatives {
            let to = format!("daddr {} ", probe.to);
            let is_it = |trace: &Trace| {
                trace.counted && trace.packet.contains(&shown) && trace.packet.contains(&to)
            };
            let passes = match probe.path {
                Path::Out => arrived.contains(&id),
                Path::In | Path::PortIn | Path::PortOut => {
                    traces.as_ref().is_ok_and(|traces| traces.iter().any(is_it))
                }
            };
            let names = passing.entry(key).or_default();
            if passes && !names.contains(&name) {
                names.push(name);
            }
        }
        (traces, passing)
    }

    fn send_traced(&mut self, traced: &Traced, site: &Site) {
        let kind = traced.probe.kind;
        let mut packet = self.packet(&traced.probe, kind);
        match traced.probe.path {
            Path::PortIn => {
                packet.from.1 = traced.port;
                packet.to.1 = site.port.listen;
            }
            // The identifier of an echo request.
            Path::Out | Path::In if kind == Kind::Echo => packet.from.1 = traced.port,
            Path::Out | Path::In => packet.to.1 = traced.port,
            // The socket itself sends.
            Path::PortOut => return,
        }
        let Some(bytes) = packet.bytes(self.magic) else { return };
        if let Some(bytes) = self.send(&traced.probe, bytes) {
            self.injector.inject(vec![bytes]);
        }
    }

    fn send_alternatives(&mut self, traced: &Traced, ports: &[u16]) -> Vec<Alternative> {
        let Traced { key, probe, .. } = traced;
        // Where probes are counted at their device, only those to ports of their own get there.
        let is_forwarded = matches!(probe.path, Path::Out | Path::In)
            && self.first_port(probe) != nft::FIRST_EGRESS_PORT;
        if !is_forwarded || !matches!(probe.kind, Kind::Udp | Kind::TcpSyn) {
            return Vec::new();
        }
        let all = probe.kind == Kind::Udp;
        let kinds = all
            .then_some((Kind::Echo, 0))
            .into_iter()
            .chain(ports.iter().map(|port| (Kind::TcpSyn, *port)))
            .chain(ports.iter().filter(|_| all).map(|port| (Kind::Udp, *port)));
        let mut sent = Vec::new();
        let mut injected = Vec::new();
        for (kind, port) in kinds {
            let mut packet = Packet { kind, ..self.packet(probe, kind) };
            packet.to.1 = port;
            injected.extend(packet.bytes(self.magic).and_then(|bytes| self.send(probe, bytes)));
            let (shown, name) = match kind {
                Kind::Echo => ("icmp".to_owned(), "ping".to_owned()),
                Kind::TcpSyn => (format!("tcp dport {port} "), format!("TCP port {port}")),
                Kind::Udp | Kind::Large => {
                    (format!("udp dport {port} "), format!("UDP port {port}"))
                }
            };
            sent.push(Alternative { key: *key, probe: *probe, id: packet.id, shown, name });
        }
        self.injector.inject(injected);
        sent
    }

    /// The rule of iptables-legacy whose counter grows with this probe.
    async fn legacy_rule(
        &mut self,
        traced: &Traced,
        tools: &Tools,
        translates: bool,
        site: &Site,
    ) -> Option<cause::LegacyRule> {
        let program = tools.iptables_legacy.as_deref()?;
        let v6 = traced.probe.to.is_ipv6();
        let before = legacy::read(program, v6).await;
        if before.is_empty() {
            return None;
        }
        for _ in 0..COUNTED {
            self.send_traced(traced, site);
        }
        tokio::time::sleep(COUNT_DELAY).await;
        let after = legacy::read(program, v6).await;
        after.grown(&before, COUNTED, translates).cloned()
    }
}

/// A packet's trace: of one that was dropped, if there is one.
fn find<'a>(traces: &'a [Trace], traced: &Traced) -> Option<&'a Trace> {
    let mut found = traces.iter().filter(|trace| is_of(trace, traced));
    found.clone().find(|trace| trace.dropped.is_some()).or_else(|| found.next())
}

fn is_of(trace: &Trace, traced: &Traced) -> bool {
    match traced.probe.path {
        Path::PortIn => trace.is_from_port(traced.port),
        Path::PortOut => trace.is_from_port(traced.port) && trace.dropped.is_some(),
        Path::Out | Path::In if traced.probe.kind == Kind::Echo => trace.is_echo(traced.port),
        Path::Out | Path::In => trace.is_to_port(traced.port),
    }
}

fn add_passing(verdicts: &mut BTreeMap<Key, Verdict>, passing: &BTreeMap<Key, Vec<String>>) {
    for (key, names) in passing {
        if let Some(Verdict::Dropped { partly, .. }) = verdicts.get_mut(key) {
            partly.extend(names.iter().take(MAX_LISTED).cloned());
        }
    }
}

/// Programs that can undo rules.
async fn tools() -> Tools {
    let mut tools = Tools::default();
    for program in ["iptables", "iptables-nft", "iptables-legacy"] {
        let Some(version) = output(program, &["-V"]).await else { continue };
        let kind = match version.contains("nf_tables") {
            true => &mut tools.iptables_nft,
            false => &mut tools.iptables_legacy,
        };
        kind.get_or_insert_with(|| program.to_owned());
    }
    tools.firewalld = output("firewall-cmd", &["--state"]).await.is_some();
    tools
}

/// The ports that a chain's rules name.
async fn named_ports(place: &Place) -> Vec<u16> {
    let Place { family, table, base, chain, .. } = place;
    let mut ports = Vec::new();
    for chain in [base, chain] {
        let listed = output("nft", &["-n", "list", "chain", family, table, chain]).await;
        ports.extend(ports_in(&listed.unwrap_or_default()));
    }
    ports
}

/// The numbers behind `dport` and `dports`, alone or in a list.
fn ports_in(rules: &str) -> Vec<u16> {
    let mut ports = Vec::new();
    for part in rules.split("dport").skip(1) {
        let part = part.trim_start_matches('s').trim_start();
        let list = match part.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => part.split_whitespace().next().unwrap_or_default(),
        };
        let numbers = list.split(',').filter_map(|port| port.trim().split('-').next());
        ports.extend(numbers.filter_map(|port| port.parse::<u16>().ok()));
    }
    ports
}

async fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).kill_on_drop(true).output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_in_rules_of_both_tools() {
        let rules = "tcp dport 8443 accept\n udp dport { 53, 5000-5010 } accept\n multiport dports 81,82 x\n\
                     tcp dport != @set accept";
        assert_eq!(ports_in(rules), [8443, 53, 5000, 81, 82]);
        assert!(ports_in("policy drop").is_empty());
    }
}

//! Which rule does what to a packet, from `nft monitor trace`.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::{sleep_until, timeout},
};

use super::nft;
use crate::{host::driver::probes::Magic, instance::Instance};

/// How long packets are sent until the trace shows them: `nft` reads all rules before it listens.
const TIMEOUT: Duration = Duration::from_millis(2500);
const RESEND_INTERVAL: Duration = Duration::from_millis(150);
/// A packet's lines arrive together.
const QUIET: Duration = Duration::from_millis(120);

/// How often a trace changes the ruleset: by adding its table, and by removing it.
pub(super) const CHANGES: u32 = 2;

/// A rule or a policy, where it was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Such as `ip` or `inet`.
    pub(super) family: String,
    pub(super) table: String,
    /// The chain of the hook, from which others are called.
    pub(super) base: String,
    pub(super) chain: String,
    /// `None`: the chain's policy.
    pub(super) rule: Option<String>,
}

/// One packet's way through the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// The description of the packet as it came.
    pub(super) packet: String,
    /// What dropped it.
    pub(super) dropped: Option<Place>,
    /// The rule that gave it another source.
    pub(super) source_nat: Option<Place>,
    /// The rule that gave it another destination.
    pub(super) destination_nat: Option<Place>,
    /// Our own chains that it reached, such as `forward-first`.
    pub(super) reached: Vec<String>,
    /// It came to the table in which probes are counted.
    pub(super) counted: bool,
    /// Chains of others that it went through, as `family table chain`.
    pub(super) chains: Vec<String>,
    pub(super) base: String,
}

impl Trace {
    /// Whether this is the packet to this port.
    pub(super) fn is_to_port(&self, port: u16) -> bool {
        self.packet.contains(&format!(" dport {port} "))
    }

    /// Whether this is the echo request with this identifier.
    pub(super) fn is_echo(&self, id: u16) -> bool {
        ["icmp", "icmpv6"].iter().any(|kind| self.packet.contains(&format!(" {kind} id {id} ")))
    }

    /// Whether the packet was sent from this port.
    pub(super) fn is_from_port(&self, port: u16) -> bool {
        self.packet.contains(&format!(" sport {port} "))
    }
}

/// Has the packets of `send` traced, which is called several times: from the arrival at one of `devices` on,
/// and those that are sent from `port`. Returns when `done` says so, or
/// when the time is over.
///
/// # Errors
/// What `nft` says, or that it is not there.
pub(super) async fn run(
    instance: &Instance,
    magic: Magic,
    (port, devices): (u16, &BTreeSet<String>),
    mut send: impl FnMut(),
    done: impl Fn(&[Trace]) -> bool,
) -> Result<Vec<Trace>, String> {
    let script = |devices| nft::trace_script(instance, magic, port, devices);
    if nft::run(&script(devices)).await.is_err() {
        nft::run(&script(&BTreeSet::new())).await?;
    }
    let lines = collect(instance, &mut send, &done).await;
    // Without it nothing is traced, and the next call makes it from scratch.
    let _ = nft::run(&nft::removal(&nft::trace_table(instance))).await;
    Ok(parse(&lines?, instance))
}

async fn collect(
    instance: &Instance,
    send: &mut impl FnMut(),
    done: &impl Fn(&[Trace]) -> bool,
) -> Result<Vec<String>, String> {
    let mut child = Command::new("nft")
        .args(["-n", "monitor", "trace"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("the program nft (package nftables): {error}"))?;
    let Some(stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let mut reader = BufReader::new(stdout).lines();
    let mut lines = Vec::new();
    let end = Instant::now() + TIMEOUT;
    let mut resend = Instant::now() + RESEND_INTERVAL;
    loop {
        tokio::select! {
            line = reader.next_line() => match line {
                Ok(Some(line)) => lines.push(line),
                Ok(None) | Err(_) => break,
            },
            () = sleep_until(resend.into()) => {
                if done(&parse(&lines, instance)) || Instant::now() > end {
                    break;
                }
                send();
                resend = Instant::now() + RESEND_INTERVAL;
            }
        }
    }
    while let Ok(Ok(Some(line))) = timeout(QUIET, reader.next_line()).await {
        lines.push(line);
    }
    let _ = child.start_kill();
    let _ = child.wait().await;
    Ok(lines)
}

/// The packets that our own chains marked, in the order in which they came.
pub(super) fn parse<S: AsRef<str>>(lines: &[S], instance: &Instance) -> Vec<Trace> {
    let (counting, tracing) = (nft::table(instance), nft::trace_table(instance));
    let mut traces: BTreeMap<String, (usize, Trace)> = BTreeMap::new();
    for (number, line) in lines.iter().enumerate() {
        let Some(event) = Event::parse(line.as_ref()) else { continue };
        let ours = event.family == "inet" && event.table == tracing;
        if !ours && !traces.contains_key(event.id) {
            continue;
        }
        let (_, trace) = traces.entry(event.id.to_owned()).or_insert((number, Trace::default()));
        if let What::Packet(packet) = event.what {
            event.chain.clone_into(&mut trace.base);
            if trace.packet.is_empty() {
                packet.clone_into(&mut trace.packet);
            }
        }
        if ours {
            if !trace.reached.iter().any(|chain| chain == event.chain) {
                trace.reached.push(event.chain.to_owned());
            }
        } else if event.family == "inet" && event.table == counting {
            trace.counted |= event.chain == "probe" || matches!(event.what, What::Rule(..));
        } else {
            event.record(trace);
        }
    }
    let mut traces: Vec<_> = traces.into_values().collect();
    traces.sort_by_key(|(number, _)| *number);
    traces.into_iter().map(|(_, trace)| trace).collect()
}

/// One line of the trace.
struct Event<'a> {
    id: &'a str,
    family: &'a str,
    table: &'a str,
    chain: &'a str,
    what: What<'a>,
}

enum What<'a> {
    Packet(&'a str),
    /// The rule's text, and its verdict.
    Rule(&'a str, &'a str),
    Policy(&'a str),
    Other,
}

impl<'a> Event<'a> {
    /// `trace id ID FAMILY TABLE CHAIN packet: …`, `… rule TEXT (verdict VERDICT)` or `… policy VERDICT`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.strip_prefix("trace id ")?.splitn(5, ' ');
        let (id, family, table) = (words.next()?, words.next()?, words.next()?);
        let (chain, rest) = (words.next()?, words.next()?);
        let what = if let Some(packet) = rest.strip_prefix("packet: ") {
            What::Packet(packet)
        } else if let Some(rule) = rest.strip_prefix("rule ") {
            let (text, verdict) = rule.rsplit_once(" (verdict ").unwrap_or((rule, ""));
            What::Rule(text, verdict.trim_end().trim_end_matches(')'))
        } else if let Some(policy) = rest.strip_prefix("policy ") {
            What::Policy(policy.trim())
        } else {
            What::Other
        };
        Some(Self { id, family, table, chain, what })
    }

    fn record(&self, trace: &mut Trace) {
        let place = |rule: Option<&str>| Place {
            family: self.family.to_owned(),
            table: self.table.to_owned(),
            base: trace.base.clone(),
            chain: self.chain.to_owned(),
            rule: rule.map(str::to_owned),
        };
        let name = format!("{} {} {}", self.family, self.table, self.chain);
        match self.what {
            What::Rule(text, "drop") => trace.dropped = Some(place(Some(text))),
            What::Policy("drop") => trace.dropped = Some(place(None)),
            What::Rule(text, "accept") if translates_source(text) => {
                trace.source_nat = Some(place(Some(text)));
            }
            What::Rule(text, "accept") if translates_destination(text) => {
                trace.destination_nat = Some(place(Some(text)));
            }
            What::Packet(_) | What::Rule(..) | What::Policy(_) | What::Other => {}
        }
        if !trace.chains.contains(&name) {
            trace.chains.push(name);
        }
    }
}

fn translates_source(rule: &str) -> bool {
    has_word(rule, &["masquerade", "snat", "netmap"])
}

fn translates_destination(rule: &str) -> bool {
    has_word(rule, &["dnat", "redirect"])
}

fn has_word(rule: &str, words: &[&str]) -> bool {
    let rule = rule.to_ascii_lowercase();
    words.iter().any(|word| rule.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[&str] = &[
        "trace id b2 inet cframe-trace-cframe0 prerouting-first packet: iif \"lan0\" ip saddr 10.1.0.9 ip daddr 10.2.0.1 udp sport 40000 udp dport 33440 udp length 47 ",
        "trace id b2 inet cframe-trace-cframe0 prerouting-first rule meta length 67 meta nftrace set 1 (verdict continue)",
        "trace id 77 inet other chain packet: iif \"lan0\" ip saddr 10.1.0.9 ",
        "trace id b2 ip filter FORWARD packet: iif \"lan0\" oif \"cframe0\" ip saddr 10.1.0.9 ",
        "trace id b2 ip filter FORWARD rule counter packets 0 bytes 0 jump DOCKER-USER (verdict jump DOCKER-USER)",
        "trace id b2 ip filter DOCKER-USER rule ip saddr 10.1.0.0/16 counter packets 0 bytes 0 drop (verdict drop)",
        "trace id c3 inet cframe-trace-cframe0 prerouting-first packet: iif \"lan0\" udp dport 33441 ",
        "trace id c3 inet fw forward packet: iif \"lan0\" ",
        "trace id c3 inet fw forward policy drop ",
        "nonsense",
        "trace id d4 inet cframe-trace-cframe0 prerouting-first packet: iif \"lan0\" udp dport 33442 ",
        "trace id d4 ip nat POSTROUTING packet: oif \"cframe0\" ",
        "trace id d4 ip nat POSTROUTING rule ip saddr 10.1.0.0/16 counter packets 0 bytes 0 masquerade (verdict accept)",
        "trace id d4 inet cframe-probe-cframe0 postrouting rule meta length 67 goto probe (verdict goto probe)",
    ];

    #[test]
    fn the_rule_or_policy_that_drops_a_packet_is_found_with_its_base_chain() {
        let traces = parse(LINES, &Instance::default());
        assert_eq!(traces.len(), 3, "only packets that our own chain has marked");
        let place = traces[0].dropped.as_ref().unwrap();
        assert_eq!(
            (place.base.as_str(), place.chain.as_str(), place.table.as_str()),
            ("FORWARD", "DOCKER-USER", "filter")
        );
        assert!(place.rule.as_ref().unwrap().starts_with("ip saddr 10.1.0.0/16"));
        assert!(traces[0].is_to_port(33440) && !traces[0].is_to_port(33441));
        assert_eq!(traces[0].reached, ["prerouting-first"]);
        let place = traces[1].dropped.as_ref().unwrap();
        assert_eq!((place.rule.as_ref(), place.base.as_str()), (None, "forward"));
    }

    #[test]
    fn a_rule_that_translates_the_source_is_found_and_that_the_packet_was_counted() {
        let traces = parse(LINES, &Instance::default());
        let place = traces[2].source_nat.as_ref().unwrap();
        assert_eq!((place.table.as_str(), place.base.as_str()), ("nat", "POSTROUTING"));
        assert!(traces[2].counted && traces[2].dropped.is_none() && !traces[1].counted);
    }
}

//! One round of one contender: a workload, and the figures that come out of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::arena::Arena;
use super::contender::{Contender, wait_up};
use super::cpu;
use super::scenario::{Scenario, Tcp, Workload};
use super::statistics::percentile;
use super::store::Sample;
use super::udp::{Course, most_packets};
use crate::PingStats;
use crate::iperf::Iperf;

/// Between two echo requests.
const PING_INTERVAL: Duration = Duration::from_millis(2);

/// How long a trial of the packet rate takes.
const TRIAL: Duration = Duration::from_millis(800);

/// Measures a tunnel that is up.
pub(super) fn measure(
    arena: &Arena,
    contender: &mut dyn Contender,
    scenario: &Scenario,
    seconds: u32,
) -> Result<Sample> {
    match scenario.workload {
        Workload::Tcp(tcp) => bulk(arena, contender, tcp, seconds.max(tcp.at_least)),
        Workload::Packets { flows } => packets(arena, contender, flows),
        Workload::Ping => {
            let count = Duration::from_secs(seconds.into()).as_millis() / PING_INTERVAL.as_millis();
            let count = u64::try_from(count).context("that long a time")?;
            let (_, right) = contender.addresses();
            let ping = arena.left()?.host.ping(right).interval(PING_INTERVAL).count(count);
            pings(&ping.run_to_end()?)
        }
        Workload::Start => start(arena, contender),
    }
}

fn bulk(arena: &Arena, contender: &dyn Contender, tcp: Tcp, seconds: u32) -> Result<Sample> {
    let (left, right) = (arena.left()?.host, arena.right()?.host);
    let (_, to) = contender.addresses();
    let mut iperf = Iperf::tcp(seconds).warm_up(1).flows(tcp.flows);
    if tcp.both {
        iperf = iperf.both_ways();
    }
    if let Some(name) = tcp.congestion {
        iperf = iperf.congestion(name);
    }
    if let Some(mbit) = tcp.mbit {
        iperf = iperf.pace(mbit);
    }
    if let Some(mss) = contender.mss() {
        iperf = iperf.mss(mss);
    }
    let pinger = match tcp.ping {
        true => Some(left.ping(to).interval(PING_INTERVAL).start()?),
        false => None,
    };
    let processes = contender.processes();
    let before = cpu::seconds(&processes)?;
    let seen = iperf.run(&left, &right, to)?;
    let used = cpu::seconds(&processes)? - before;

    let mut sample = match pinger {
        Some(pinger) => pings(&pinger.stop())?,
        None => Sample::new(),
    };
    let mut note = |name: &str, value: f64| sample.insert(name.to_owned(), value);
    // Each way, when there are two.
    note("mbit", if tcp.both { f64::midpoint(seen.mbit, seen.back_mbit) } else { seen.mbit });
    note("retransmits", seen.retransmits as f64);
    if !processes.is_empty() {
        ensure!(seen.bytes > 0, "no byte was carried");
        note("cpu_s_per_gb", used / (seen.bytes as f64 / 1e9));
        let peaks: Result<Vec<_>> = processes.iter().map(|end| end.peak_rss_kib()).collect();
        note("rss_mib", peaks?.into_iter().max().unwrap_or(0) as f64 / 1024.0);
    }
    Ok(sample)
}

fn packets(arena: &Arena, contender: &dyn Contender, flows: u16) -> Result<Sample> {
    let (left, right) = (arena.left()?.host, arena.right()?.host);
    let (_, address) = contender.addresses();
    let pps = most_packets(&Course { from: &left, to: &right, address, flows }, TRIAL)?;
    Ok(Sample::from([("pps".to_owned(), pps)]))
}

fn pings(stats: &PingStats) -> Result<Sample> {
    let rtts: Vec<_> =
        stats.probes.iter().filter_map(|probe| Some(probe.rtt?.as_secs_f64() * 1e3)).collect();
    let at = |share| percentile(&rtts, share).context("no echo request was answered");
    let lost = 1.0 - stats.received as f64 / stats.sent.max(1) as f64;
    Ok(Sample::from([
        ("ping_p50_ms".to_owned(), at(0.5)?),
        ("ping_p99_ms".to_owned(), at(0.99)?),
        ("ping_lost_percent".to_owned(), lost * 100.0),
    ]))
}

fn start(arena: &Arena, contender: &mut dyn Contender) -> Result<Sample> {
    let left = arena.left()?;
    contender.stop()?;
    // The network between is ready: its first packet asks for a hardware address.
    left.host.ping(arena.right()?.ip()).first_reply(Duration::from_secs(1))?;
    let begin = std::time::Instant::now();
    contender.start()?;
    wait_up(contender, &left)?;
    Ok(Sample::from([("start_ms".to_owned(), begin.elapsed().as_secs_f64() * 1e3)]))
}

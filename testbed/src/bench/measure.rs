//! One round of one contender: runs a workload and returns its metrics.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, wait_up};
use super::scenario::{Scenario, Tcp, Workload};
use super::sites::BenchSites;
use super::statistics::percentile;
use super::store::Sample;
use super::udp::{UdpPath, max_packet_rate};
use crate::iperf::Iperf;
use crate::ping::PingStats;
use crate::process::Process;

const PING_INTERVAL: Duration = Duration::from_millis(2);

/// Length of one trial of a packet rate.
const TRIAL: Duration = Duration::from_millis(800);

/// Measures a tunnel that is up.
pub(super) fn measure(
    sites: &BenchSites,
    contender: &mut dyn Contender,
    scenario: &Scenario,
    seconds: u32,
) -> Result<Sample> {
    match scenario.workload {
        Workload::Tcp(tcp) => measure_tcp(sites, contender, tcp, seconds.max(tcp.min_seconds)),
        Workload::Packets { flows } => measure_packet_rate(sites, contender, flows),
        Workload::Ping => {
            let count = Duration::from_secs(seconds.into()).as_millis() / PING_INTERVAL.as_millis();
            let count = u64::try_from(count).context("the round is too long")?;
            let (_, right) = contender.addresses();
            let ping = sites.left()?.host.ping(right).interval(PING_INTERVAL).count(count);
            ping_metrics(&ping.run_to_end()?)
        }
        Workload::Start => measure_start(sites, contender),
    }
}

fn measure_tcp(
    sites: &BenchSites,
    contender: &dyn Contender,
    tcp: Tcp,
    seconds: u32,
) -> Result<Sample> {
    let (left, right) = (sites.left()?.host, sites.right()?.host);
    let (_, to) = contender.addresses();
    let mut iperf = Iperf::tcp(seconds).warm_up(1).flows(tcp.flows);
    if tcp.both_ways {
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
    let pinger = tcp.ping.then(|| left.ping(to).interval(PING_INTERVAL).start()).transpose()?;
    let processes = contender.processes();
    let cpu_before = cpu_seconds(&processes)?;
    let measured = iperf.run(&left, &right, to)?;
    let cpu = cpu_seconds(&processes)? - cpu_before;

    let mut sample = match pinger {
        Some(pinger) => ping_metrics(&pinger.stop())?,
        None => Sample::new(),
    };
    // With both ways the mean of the two directions.
    let mbit = match tcp.both_ways {
        true => f64::midpoint(measured.mbit, measured.back_mbit),
        false => measured.mbit,
    };
    let mut add = |name: &str, value: f64| sample.insert(name.to_owned(), value);
    add("mbit", mbit);
    add("retransmits", measured.retransmits as f64);
    if !processes.is_empty() {
        ensure!(measured.bytes > 0, "no data was transferred");
        add("cpu_s_per_gb", cpu / (measured.bytes as f64 / 1e9));
        let peaks: Result<Vec<_>> =
            processes.iter().map(|process| process.peak_rss_kib()).collect();
        add("rss_mib", peaks?.into_iter().max().unwrap_or(0) as f64 / 1024.0);
    }
    Ok(sample)
}

/// The sum over all processes, see [`Process::cpu_seconds`].
pub(crate) fn cpu_seconds(processes: &[&Process]) -> Result<f64> {
    processes.iter().map(|process| process.cpu_seconds()).sum()
}

fn measure_packet_rate(
    sites: &BenchSites,
    contender: &dyn Contender,
    flows: u16,
) -> Result<Sample> {
    let (left, right) = (sites.left()?.host, sites.right()?.host);
    let (_, address) = contender.addresses();
    let pps = max_packet_rate(&UdpPath { from: &left, to: &right, address, flows }, TRIAL)?;
    Ok(Sample::from([("pps".to_owned(), pps)]))
}

fn ping_metrics(stats: &PingStats) -> Result<Sample> {
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

fn measure_start(sites: &BenchSites, contender: &mut dyn Contender) -> Result<Sample> {
    let left = sites.left()?;
    contender.stop()?;
    // So that the underlay has resolved the hardware addresses.
    left.host.ping(sites.right()?.ip()).first_reply(Duration::from_secs(1))?;
    let start = Instant::now();
    contender.start()?;
    wait_up(contender, &left)?;
    Ok(Sample::from([("start_ms".to_owned(), start.elapsed().as_secs_f64() * 1e3)]))
}

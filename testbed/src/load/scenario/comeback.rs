//! The controller is killed and started again under its edges: the time until all are in sync, and what that costs the
//! controller. Before that, what idle edges cost it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::TIMEOUT;
use crate::bench::cpu_seconds;
use crate::load::Size;
use crate::load::edges::RunningEdges;
use crate::load::fleet::prepare_namespaces;
use crate::load::lab::{LoadLab, NamespaceSpec};
use crate::load::operator::Operator;
use crate::load::report::Report;
use crate::load::usage::{CpuUsage, counter};

pub(super) struct Targets {
    /// Seconds until all edges are in sync.
    seconds: f64,
    /// The controller's peak memory.
    mib: f64,
}

/// For 1,000 edges.
pub(super) const MANY: Targets = Targets { seconds: 15.0, mib: 200.0 };
/// For 10,000 edges.
pub(super) const ALL: Targets = Targets { seconds: 120.0, mib: 1_024.0 };

/// An edge that loses a session of this age starts again with its shortest delay.
const HEALTHY_SESSION: Duration = Duration::from_secs(31);
const SMALL_SESSION: Duration = Duration::from_secs(8);
/// Each status call costs the controller work for all edges.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(
    lab: &mut LoadLab,
    namespaces: &[NamespaceSpec],
    targets: &Targets,
    report: &mut Report,
) -> Result<()> {
    let edges = prepare_namespaces(lab, namespaces).await?;
    let count = edges.len();
    report.record("edges", count as f64, "");
    // So that the memory used to create the edges does not count.
    lab.kill_and_start()?;
    let edges = RunningEdges::start_full(edges);
    let start = Instant::now();
    edges.wait_online(count, TIMEOUT).await?;
    let mut operator = lab.operator().await?;
    let online = wait_in_sync(&operator, namespaces, count).await?;
    report.record("first sessions: all in sync", (online - start).as_secs_f64(), "s");
    let controller_cpu = |lab: &LoadLab| cpu_seconds(&[lab.controller()]);
    report.record("first sessions: controller, CPU time", controller_cpu(lab)?, "s");
    measure_idle(lab, &operator, report).await?;

    let age = if lab.size == Size::SMALL { SMALL_SESSION } else { HEALTHY_SESSION };
    sleep(age.saturating_sub(online.elapsed())).await;
    let sessions = edges.sum(|one| one.sessions);
    let started = lab.kill_and_start()?;
    reconnect(&mut operator).await?;
    let in_sync = wait_in_sync(&operator, namespaces, count).await? - started;
    report.record_bounded("restart: all in sync", in_sync.as_secs_f64(), "s", targets.seconds);
    report.record("restart: controller, CPU time", controller_cpu(lab)?, "s");
    let peak = lab.controller().peak_rss_kib()? as f64;
    report.record_bounded("controller, peak memory", peak / 1024.0, "MiB", targets.mib);
    report.record("controller, memory per edge", peak / count as f64, "KiB");
    let metrics = lab.deployment.controller().http("/metrics")?.1;
    let handshakes = counter(&metrics, "cframe_controller_connections_total")?;
    report.record("handshakes per edge", handshakes / count as f64, "");
    report.record(
        "sessions per edge",
        (edges.sum(|one| one.sessions) - sessions) as f64 / count as f64,
        "",
    );
    edges.stop().await;
    Ok(())
}

async fn measure_idle(lab: &LoadLab, operator: &Operator, report: &mut Report) -> Result<()> {
    let seconds = Duration::from_secs(lab.size.seconds);
    sleep(seconds.min(Duration::from_secs(5))).await;
    let usage = CpuUsage::start(lab.controller())?;
    sleep(seconds).await;
    report.record("idle: controller, CPU", usage.percent(lab.controller())?, "%");
    let start = Instant::now();
    operator.status().await?;
    report.record("idle: one status call", start.elapsed().as_secs_f64() * 1e3, "ms");
    Ok(())
}

/// Retries, because all edges connect at the same time.
async fn reconnect(operator: &mut Operator) -> Result<()> {
    let start = Instant::now();
    loop {
        match operator.reconnect().await {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > TIMEOUT => return Err(error),
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Waits until `count` edges of these namespaces are in sync; returns when they were.
async fn wait_in_sync(
    operator: &Operator,
    namespaces: &[NamespaceSpec],
    count: usize,
) -> Result<Instant> {
    let start = Instant::now();
    loop {
        let status = operator.status().await?;
        let rows = status.namespaces.iter();
        let rows = rows.filter(|row| namespaces.iter().any(|one| one.name == row.name));
        let in_sync: usize = rows.map(|row| row.in_sync as usize).sum();
        if in_sync >= count {
            return Ok(Instant::now());
        }
        ensure!(start.elapsed() < TIMEOUT, "only {in_sync} of {count} edges are in sync");
        sleep(POLL_INTERVAL).await;
    }
}

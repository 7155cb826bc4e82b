//! Edges that each have a problem, which comes and goes every few seconds: what it costs the controller, and how long
//! `cfctl status` takes meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::TIMEOUT;
use crate::load::edges::RunningEdges;
use crate::load::fleet::prepare_edges;
use crate::load::lab::LoadLab;
use crate::load::report::Report;
use crate::load::usage::CpuUsage;

/// Average time for which a problem is there, and for which it is not.
const TOGGLE_INTERVAL: Duration = Duration::from_secs(3);
/// One status is asked for at this interval, as monitoring does.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

pub(super) async fn run(lab: &LoadLab, report: &mut Report) -> Result<()> {
    let namespace = lab.large_namespace()?;
    let enrolled = prepare_edges(lab, &namespace, namespace.edges).await?;
    let operator = lab.operator().await?;
    let have = operator.version(&namespace.name).await?;
    let edges = RunningEdges::start_with_problems(enrolled, Some(have), TOGGLE_INTERVAL);
    edges.wait_online(edges.len(), TIMEOUT).await?;

    // The sessions have just started.
    tokio::time::sleep(STATUS_INTERVAL).await;
    let usage = CpuUsage::start(lab.controller())?;
    let sent = edges.sum(|one| one.problems);
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    let (mut groups, mut most, mut links_down) = (0, 0, 0);
    while started.elapsed() < Duration::from_secs(lab.size.seconds).max(2 * STATUS_INTERVAL) {
        tokio::time::sleep(STATUS_INTERVAL).await;
        let asked = Instant::now();
        let status = operator.status().await?;
        slowest = slowest.max(asked.elapsed());
        groups = status.problems.len();
        let links = status.problems.iter().find(|group| group.code.as_str() == "link-down");
        links_down = links_down.max(links.map_or(0, |group| group.count));
        let found = status.problems.iter().find(|group| group.code.as_str() == "forwarding-off");
        most = most.max(found.map_or(0, |group| group.count));
        ensure!(found.is_none_or(|group| group.examples.len() <= 5), "more than 5 examples");
    }
    let percent = usage.percent(lab.controller())?;
    let sent = (edges.sum(|one| one.problems) - sent) as f64 / started.elapsed().as_secs_f64();
    report.record("edges", edges.len() as f64, "");
    report.record("problem reports per second", sent, "");
    report.record("edges with a problem at once, at most", f64::from(most), "");
    report.record_bounded("links that are down, at most", f64::from(links_down), "", 0.0);
    report.record("groups in the last status", groups as f64, "");
    report.record_bounded("controller, CPU", percent, "%", 20.0);
    report.record_bounded("status, slowest", slowest.as_secs_f64(), "s", 1.0);
    edges.stop().await;
    Ok(())
}

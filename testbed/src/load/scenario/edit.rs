//! Edits of one route: from the command to the last edge's acknowledgement.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::TIMEOUT;
use crate::load::edges::RunningEdges;
use crate::load::fleet::{prepare_edges, route_add, route_del};
use crate::load::lab::{LoadLab, NamespaceSpec};
use crate::load::report::{Report, quantile};
use crate::load::usage::CpuUsage;

/// Long enough that each edit is delivered by itself.
const DELAY_BETWEEN_EDITS: Duration = Duration::from_millis(300);
/// Edits before those that are measured.
const WARM_UP: u32 = 2;

pub(super) async fn run(
    lab: &LoadLab,
    namespace: &NamespaceSpec,
    report: &mut Report,
) -> Result<()> {
    let edges = prepare_edges(lab, namespace, namespace.edges).await?;
    let operator = lab.operator().await?;
    // As if each edge had stored the current state on disk.
    let have = operator.version(&namespace.name).await?;
    let edges = RunningEdges::start_followers(edges, Some(have));
    edges.wait_online(edges.len(), TIMEOUT).await?;
    let (mut acknowledged, mut received) = (Vec::new(), Vec::new());
    let (mut usage, mut bytes, mut updates) = (None, 0, 0);
    for number in 0..2 * (WARM_UP + lab.size.edits).div_ceil(2) {
        if number == WARM_UP {
            usage = Some(CpuUsage::start(lab.controller())?);
            (bytes, updates) = (edges.sum(|one| one.bytes), edges.sum(|one| one.updates));
        }
        tokio::time::sleep(DELAY_BETWEEN_EDITS).await;
        let call = if number % 2 == 0 {
            route_add(namespace, number)
        } else {
            route_del(namespace, number - 1)
        };
        let start = Instant::now();
        let version = operator.change(call?).await?;
        operator.wait(&namespace.name, version).await?;
        if number >= WARM_UP {
            acknowledged.push(start.elapsed().as_secs_f64() * 1e3);
            let applied = edges.values(|one| Some(one.applied?.1));
            let last = applied.into_iter().max();
            received.extend(last.map(|last| (last - start).as_secs_f64() * 1e3));
        }
    }
    let edits = acknowledged.len() as f64;
    let deliveries = edges.len() as f64 * edits;
    report.record("edges", edges.len() as f64, "");
    report.record("command → acknowledged by all, p50", quantile(&acknowledged, 0.5), "ms");
    let p95 = quantile(&acknowledged, 0.95);
    report.record_bounded("command → acknowledged by all, p95", p95, "ms", 250.0);
    report.record("command → applied by the last edge, p95", quantile(&received, 0.95), "ms");
    let bytes = (edges.sum(|one| one.bytes) - bytes) as f64 / deliveries;
    report.record_bounded("stream bytes per edge and edit", bytes, "bytes", 200.0);
    let updates = (edges.sum(|one| one.updates) - updates) as f64 / deliveries;
    report.record("updates per edge and edit", updates, "");
    if let Some(usage) = usage {
        let cpu = 1e3 * usage.seconds(lab.controller())? / edits;
        report.record("controller, CPU time per edit", cpu, "ms");
    }
    edges.stop().await;
    Ok(())
}

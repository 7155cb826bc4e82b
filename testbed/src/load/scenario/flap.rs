//! A route that is added and removed a hundred times a second while others are added: how many updates edges get, and
//! whether anything is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cframe_protocol::v1::{Call, Desired, Version};

use super::TIMEOUT;
use crate::load::edges::{RunningEdges, wait_for};
use crate::load::fleet::{prepare_edges, route_add, route_del};
use crate::load::lab::{LoadLab, NamespaceSpec};
use crate::load::operator::Operator;
use crate::load::report::Report;
use crate::load::usage::CpuUsage;

const EDIT_INTERVAL: Duration = Duration::from_millis(10);
/// One edit in ten adds another route.
const OTHER_ROUTES: u32 = 10;

pub(super) async fn run(lab: &LoadLab, report: &mut Report) -> Result<()> {
    let namespace = &lab.small_namespaces()?[0];
    let enrolled = prepare_edges(lab, namespace, namespace.edges).await?;
    let edges = RunningEdges::start_full(enrolled.clone());
    edges.wait_online(edges.len(), TIMEOUT).await?;
    let operator = lab.operator().await?;
    operator.wait(&namespace.name, operator.version(&namespace.name).await?).await?;

    let updates = edges.sum(|one| one.updates);
    let usage = CpuUsage::start(lab.controller())?;
    let Edits { count, others, flapping_exists, version, took } =
        edit_routes(&operator, namespace, lab.size.seconds).await?;
    let percent = usage.percent(lab.controller())?;
    let all_at = || edges.count_at(version) == edges.len();
    wait_for("the last edit at every edge", TIMEOUT, all_at).await?;
    report.record("edges", edges.len() as f64, "");
    report.record("edits per second", f64::from(count) / took, "");
    let updates = (edges.sum(|one| one.updates) - updates) as f64 / (edges.len() as f64 * took);
    report.record_bounded("updates per edge per second", updates, "", 12.0);
    report.record_bounded("controller, CPU", percent, "%", 20.0);

    let states = edges.values(|one| one.state.clone());
    edges.stop().await;
    // An edge without a state gets the whole of it in one snapshot, to compare the others' with.
    let fresh = RunningEdges::start_full(vec![enrolled[0].clone()]);
    wait_for("a new edge's state", TIMEOUT, || fresh.count_at(version) == 1).await?;
    let snapshot = fresh.values(|one| one.state.clone()).remove(0);
    let differing = states.iter().filter(|state| **state != snapshot).count();
    report.record_bounded("edges with a different final state", differing as f64, "", 0.0);
    let lost = others.iter().filter(|number| !has_route(&snapshot, namespace, **number)).count();
    report.record_bounded("added routes lost", lost as f64, "", 0.0);
    fresh.stop().await;

    let flapping = flapping_exists.then_some(0);
    let added = others.into_iter().chain(flapping);
    let dels: Vec<Call> =
        added.map(|number| route_del(namespace, number)).collect::<Result<_>>()?;
    let count = dels.len();
    ensure!(operator.call_all(dels).await?.len() == count, "not all routes were removed again");
    Ok(())
}

struct Edits {
    count: u32,
    /// The numbers of the routes that were added besides the flapping one, number 0.
    others: Vec<u32>,
    flapping_exists: bool,
    /// The version with the last edit.
    version: Version,
    /// In seconds.
    took: f64,
}

async fn edit_routes(
    operator: &Operator,
    namespace: &NamespaceSpec,
    seconds: u64,
) -> Result<Edits> {
    let start = Instant::now();
    let mut ticks = tokio::time::interval(EDIT_INTERVAL);
    let (mut count, mut others, mut flapping_exists) = (0, Vec::new(), false);
    let mut version = operator.version(&namespace.name).await?;
    while start.elapsed() < Duration::from_secs(seconds) {
        ticks.tick().await;
        let call = if count % OTHER_ROUTES == OTHER_ROUTES - 1 {
            others.push(1 + count);
            route_add(namespace, 1 + count)
        } else {
            flapping_exists = !flapping_exists;
            if flapping_exists { route_add(namespace, 0) } else { route_del(namespace, 0) }
        };
        version = operator.change(call?).await?;
        count += 1;
    }
    Ok(Edits { count, others, flapping_exists, version, took: start.elapsed().as_secs_f64() })
}

fn has_route(state: &Desired, namespace: &NamespaceSpec, number: u32) -> bool {
    match route_add(namespace, number) {
        Ok(Call::RouteAdd { prefix, edge, .. }) => state.prefixes.get(&prefix) == Some(&edge),
        Ok(_) | Err(_) => false,
    }
}

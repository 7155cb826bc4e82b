//! The real edge with many routes: from the program's start until all are in the kernel, and edits of one more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::TIMEOUT;
use crate::deployment::{Deployment, Edge};
use crate::host::Host;
use crate::load::fleet::prepare_edges;
use crate::load::lab::LoadLab;
use crate::load::report::{Report, quantile};
use crate::{privilege, tool};

const STATUS_INTERVAL: Duration = Duration::from_millis(100);
const ROUTE_INTERVAL: Duration = Duration::from_millis(2);
/// Name of the edge, and of its site.
const EDGE: &str = "gateway";
/// The route that is added and removed, and an address in it.
const ROUTE: &str = "one-more";
const ROUTE_PREFIX: &str = "30.0.0.112/28";
const ROUTE_ADDRESS: &str = "30.0.0.113";
const EDITS: usize = 8;
const DEVICE: &str = "cframe0";

pub(super) async fn run(lab: &mut LoadLab, report: &mut Report) -> Result<()> {
    privilege::ensure_tun()?;
    let namespace = lab.routes_namespace()?;
    prepare_edges(lab, &namespace, 1).await?;
    let name = namespace.name.as_str();
    let deployment = &lab.deployment;
    let delete = ["edge", "del", EDGE, "--namespace", name, "--yes"];
    // An interrupted run may have left them.
    deployment.ctl(&delete)?;
    deployment.ctl(&["route", "del", ROUTE, "-n", name, "--yes"])?;
    let site = lab.net.site(EDGE).public("203.0.113.7/24").inner("172.30.0.0/16").build()?;
    let edge = deployment.edge(&site).namespace(name).name(EDGE);
    let mut edge = edge.without_old_files()?.enrol()?;
    let start = edge.process().started();
    let wanted = namespace.routes as usize;
    while installed(&edge)? < wanted {
        ensure!(start.elapsed() < TIMEOUT, "the routes are not installed: {:#}", edge.status()?);
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
    let took = start.elapsed();
    let routes = routes_in_kernel(edge.host())?;
    ensure!(routes >= wanted, "{routes} routes are in the kernel, not {wanted}");
    report.record("routes in the kernel", routes as f64, "");
    report.record_bounded("edge started → in the kernel", took.as_secs_f64(), "s", 5.0);

    let times = edit_route(deployment, name, edge.host()).await?;
    report.record(
        "one more route: cfctl started → in the kernel, p50",
        quantile(&times, 0.5),
        "ms",
    );
    report.record(
        "one more route: cfctl started → in the kernel, slowest",
        quantile(&times, 1.0),
        "ms",
    );
    edge.stop()?;
    edge.run(&["down"])?;
    deployment.ctl(&delete)?.success()?;
    Ok(())
}

/// Adds and removes one route; returns the milliseconds from each command to the added route in the kernel.
async fn edit_route(deployment: &Deployment, namespace: &str, host: &Host) -> Result<Vec<f64>> {
    // Unlike the edge's status, this costs the same however many routes there are.
    let is_installed = || {
        let route = tool::run(host.command("ip").args(["route", "get", ROUTE_ADDRESS]), "");
        route.is_ok_and(|route| route.contains(DEVICE))
    };
    let wait = async |wanted: bool| {
        let start = Instant::now();
        while is_installed() != wanted {
            ensure!(start.elapsed() < TIMEOUT, "the edited route does not reach the kernel");
            tokio::time::sleep(ROUTE_INTERVAL).await;
        }
        Ok(())
    };
    ensure!(!is_installed(), "{ROUTE_ADDRESS} has a route already");
    let add =
        ["route", "add", ROUTE, "-n", namespace, "--cidr", ROUTE_PREFIX, "--edge", "edge-0007"];
    let mut times = Vec::new();
    for _ in 0..EDITS {
        let start = Instant::now();
        deployment.ctl_ok(&add)?;
        wait(true).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        deployment.ctl_ok(&["route", "del", ROUTE, "-n", namespace, "--yes"])?;
        wait(false).await?;
    }
    Ok(times)
}

fn installed(edge: &Edge) -> Result<usize> {
    let installed = edge.status()?["routes"]["installed"].as_u64().unwrap_or(0);
    Ok(usize::try_from(installed)?)
}

/// Routes to the edge's device, without the `unreachable` routes behind them.
fn routes_in_kernel(host: &Host) -> Result<usize> {
    let mut ip = host.command("ip");
    let routes = tool::run(ip.args(["-4", "route", "show", "table", "all", "dev", DEVICE]), "");
    let routes = routes.context("listing the kernel's routes")?;
    Ok(routes.lines().filter(|line| !line.starts_with("local")).count())
}

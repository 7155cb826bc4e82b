//! The real edge's first state where there are many routes: from the program's start until all are in the kernel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::PATIENCE;
use crate::bench::percentile;
use crate::load::fleet::muster;
use crate::load::report::Report;
use crate::load::world::World;
use crate::{Host, privilege, tool};

const LOOK: Duration = Duration::from_millis(100);
const NAME: &str = "gateway";
/// The route that comes and goes.
const MORE: &str = "one-more";
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const EDITS: usize = 8;
const DEVICE: &str = "dev cframe0";

pub(super) async fn run(world: &mut World, report: &mut Report) -> Result<()> {
    privilege::ensure_tun()?;
    let space = world.routes()?;
    muster(world, &space, 1).await?;
    let namespace = space.namespace.as_str();
    let deployment = &world.deployment;
    let delete = ["edge", "del", NAME, "--namespace", namespace, "--yes"];
    let delete_route = ["route", "del", MORE, "-n", namespace, "--yes"];
    // Of a run that was broken off.
    deployment.ctl(&delete)?;
    deployment.ctl(&delete_route)?;
    let site = world.lab.site(NAME).public("203.0.113.7/24").inner("172.30.0.0/16").build()?;
    let edge = deployment.edge(&site).namespace(namespace).name(NAME);
    let mut edge = edge.afresh()?.enrol()?;
    let begun = edge.process().started();
    let routes = space.routes as usize;
    while installed(&edge)? < routes {
        ensure!(begun.elapsed() < PATIENCE, "the routes do not come: {:#}", edge.status()?);
        tokio::time::sleep(LOOK).await;
    }
    let took = begun.elapsed();
    let there = in_kernel(edge.host())?;
    ensure!(there >= routes, "{there} routes are in the kernel, not {routes}");
    report.tell("routes in the kernel", there as f64, "");
    report.bound("edge started → in the kernel", took.as_secs_f64(), "s", 5.0);

    // Asking the kernel for one address costs the same however many routes there are, unlike the edge's status.
    let leads = || tool::run(edge.host().command("ip").args(["route", "get", "30.0.0.113"]), "");
    ensure!(!leads().is_ok_and(|route| route.contains(DEVICE)), "the route is there already");
    let add =
        ["route", "add", MORE, "-n", namespace, "--cidr", "30.0.0.112/28", "--edge", "edge-0007"];
    let mut all = Vec::new();
    for _ in 0..EDITS {
        let edited = Instant::now();
        deployment.ctl_ok(&add)?;
        while !leads().is_ok_and(|route| route.contains(DEVICE)) {
            ensure!(edited.elapsed() < PATIENCE, "the edit does not come");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        all.push(edited.elapsed().as_secs_f64() * 1e3);
        deployment.ctl_ok(&delete_route)?;
        while leads().is_ok_and(|route| route.contains(DEVICE)) {
            ensure!(edited.elapsed() < PATIENCE, "its end does not come");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    let of = |share| percentile(&all, share).unwrap_or(f64::NAN);
    report.tell("one more route: cfctl started → in the kernel, p50", of(0.5), "ms");
    report.tell("one more route: cfctl started → in the kernel, slowest", of(1.0), "ms");
    edge.stop()?;
    edge.run(&["down"])?;
    deployment.ctl(&delete)?.success()?;
    Ok(())
}

fn installed(edge: &crate::deployment::Edge) -> Result<usize> {
    let installed = edge.status()?["routes"]["installed"].as_u64().unwrap_or(0);
    Ok(usize::try_from(installed)?)
}

/// The unreachable ones behind them do not count.
fn in_kernel(host: &Host) -> Result<usize> {
    let mut ip = host.command("ip");
    let routes = tool::run(ip.args(["-4", "route", "show", "table", "all", "dev", "cframe0"]), "");
    let routes = routes.context("listing the kernel's routes")?;
    Ok(routes.lines().filter(|line| !line.starts_with("local")).count())
}

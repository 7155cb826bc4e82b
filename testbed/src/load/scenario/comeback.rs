//! The controller is killed and started again under its edges: how soon all are in sync, and what that costs; and what
//! they cost when nothing happens.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::PATIENCE;
use crate::load::controller::{Usage, counter, memory};
use crate::load::edges::Edges;
use crate::load::fleet::muster_all;
use crate::load::operator::Operator;
use crate::load::report::Report;
use crate::load::world::{Space, World};

/// What may be used.
pub(super) struct Targets {
    seconds: f64,
    mib: f64,
}

/// For 1,000 edges.
pub(super) const MANY: Targets = Targets { seconds: 15.0, mib: 200.0 };
/// For 10,000.
pub(super) const ALL: Targets = Targets { seconds: 120.0, mib: 1_024.0 };

/// From then on a session that is lost is one that was healthy.
const HEALTHY: Duration = Duration::from_secs(31);
/// The controller answers for all edges each time.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(
    world: &mut World,
    spaces: &[Space],
    targets: &Targets,
    report: &mut Report,
) -> Result<()> {
    let members = muster_all(world, spaces).await?;
    let count = members.len();
    report.tell("edges", count as f64, "");
    // Without what making them has left in its memory.
    world.kill_and_start()?;
    let edges = Edges::whole(members);
    let begun = Instant::now();
    edges.until_online(count, PATIENCE).await?;
    let mut operator = world.operator().await?;
    until_in_sync(&operator, spaces, count).await?;
    let stand = Instant::now();
    report.tell("first sessions: all in sync", begun.elapsed().as_secs_f64(), "s");
    report.tell("first sessions: controller, CPU time", cpu(world)?, "s");

    let seconds = Duration::from_secs(world.size.seconds);
    sleep(seconds.min(Duration::from_secs(5))).await;
    let usage = Usage::begin(world.controller())?;
    sleep(seconds).await;
    report.tell("idle: controller, CPU", usage.percent(world.controller())?, "%");
    let looked = Instant::now();
    operator.status().await?;
    report.tell("status takes", looked.elapsed().as_secs_f64() * 1e3, "ms");
    if world.size == crate::load::Size::SMALL {
        sleep(Duration::from_secs(4)).await;
    } else {
        sleep(HEALTHY.saturating_sub(stand.elapsed())).await;
    }

    let sessions = edges.sessions();
    let started = world.kill_and_start()?;
    operator_again(&mut operator).await?;
    let in_sync = until_in_sync(&operator, spaces, count).await? - started;
    report.bound("started again: all in sync", in_sync.as_secs_f64(), "s", targets.seconds);
    report.tell("started again: controller, CPU time", cpu(world)?, "s");
    let (_, peak) = memory(world.controller())?;
    report.bound("controller, most memory", peak, "MiB", targets.mib);
    report.tell("memory for an edge", peak * 1024.0 / count as f64, "KiB");
    let metrics = world.deployment.http("/metrics")?.1;
    let shaken = counter(&metrics, "cframe_controller_connections_total")?;
    report.tell("handshakes for an edge", shaken / count as f64, "");
    report.tell("sessions for an edge", (edges.sessions() - sessions) as f64 / count as f64, "");
    edges.stop().await;
    Ok(())
}

/// Edges have the controller's attention as well.
async fn operator_again(operator: &mut Operator) -> Result<()> {
    let begun = Instant::now();
    loop {
        match operator.connect_again().await {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(LOOK).await,
        }
    }
}

async fn until_in_sync(operator: &Operator, spaces: &[Space], count: usize) -> Result<Instant> {
    let begun = Instant::now();
    loop {
        let status = operator.status().await?;
        let rows = status.namespaces.iter();
        let ours = rows.filter(|row| spaces.iter().any(|space| space.namespace == row.name));
        let in_sync: usize = ours.map(|row| row.in_sync as usize).sum();
        if in_sync >= count {
            return Ok(Instant::now());
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{in_sync} of {count} edges are in sync");
        sleep(LOOK).await;
    }
}

/// Of the running process, since its start.
fn cpu(world: &World) -> Result<f64> {
    crate::bench::cpu_seconds(&[world.controller()])
}

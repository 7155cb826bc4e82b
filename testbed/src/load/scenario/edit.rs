//! One route's edit: from the command to the last edge's acknowledgement.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::PATIENCE;
use crate::bench::percentile;
use crate::load::controller::Usage;
use crate::load::edges::Edges;
use crate::load::fleet::{edit, muster, undo};
use crate::load::report::Report;
use crate::load::world::{Space, World};

/// Between two edits: each is a person's, not a flood.
const PAUSE: Duration = Duration::from_millis(300);
/// Edits before those that count.
const WARM_UP: u32 = 2;

pub(super) async fn run(world: &World, space: &Space, report: &mut Report) -> Result<()> {
    let members = muster(world, space, space.edges).await?;
    let operator = world.operator().await?;
    // What an edge has kept on its disk.
    let have = operator.version(&space.namespace).await?;
    let edges = Edges::following(members, Some(have));
    edges.until_online(edges.len(), PATIENCE).await?;
    let (mut all, mut received) = (Vec::new(), Vec::new());
    let (mut usage, mut bytes, mut updates) = (None, 0, 0);
    for number in 0..2 * (WARM_UP + world.size.edits).div_ceil(2) {
        if number == WARM_UP {
            usage = Some(Usage::begin(world.controller())?);
            (bytes, updates) = (edges.bytes(), edges.updates());
        }
        tokio::time::sleep(PAUSE).await;
        let call = if number % 2 == 0 { edit(space, number) } else { undo(space, number - 1) }?;
        let begun = Instant::now();
        let version = operator.change(call).await?;
        operator.wait(&space.namespace, version).await?;
        if number >= WARM_UP {
            all.push(begun.elapsed().as_secs_f64() * 1e3);
            let last = edges.applied().into_iter().max();
            received.extend(last.map(|last| (last - begun).as_secs_f64() * 1e3));
        }
    }
    let edits = all.len() as f64;
    let each = edges.len() as f64 * edits;
    let of = |values: &[f64], share| percentile(values, share).unwrap_or(f64::NAN);
    report.tell("edges", edges.len() as f64, "");
    report.tell("command → acknowledged by all, p50", of(&all, 0.5), "ms");
    report.bound("command → acknowledged by all, p95", of(&all, 0.95), "ms", 250.0);
    report.tell("command → the last edge has it, p95", of(&received, 0.95), "ms");
    let stream = (edges.bytes() - bytes) as f64 / each;
    report.bound("stream bytes for an edge and an edit", stream, "bytes", 200.0);
    report.tell("updates for an edge and an edit", (edges.updates() - updates) as f64 / each, "");
    if let Some(usage) = usage {
        let cpu = 1e3 * usage.cpu(world.controller())? / edits;
        report.tell("controller, CPU time for an edit", cpu, "ms");
    }
    edges.stop().await;
    Ok(())
}

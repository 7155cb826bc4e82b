//! An edge's first state where there are many routes: from the connection's beginning until they are in the tables that
//! packets are looked up in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cframe_mesh::table::PrefixTable;
use cframe_protocol::session::{EdgeSession, Event};
use cframe_protocol::v1::{Change, Desired};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use crate::bench::percentile;
use crate::load::fleet::{Member, muster};
use crate::load::report::Report;
use crate::load::world::World;

const ROUNDS: usize = 5;

pub(super) async fn run(world: &World, report: &mut Report) -> Result<()> {
    let space = world.routes()?;
    let member = muster(world, &space, 1).await?.remove(0);
    let (mut received, mut in_tables) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (state, whole) = first(&member).await?;
        received.push(state.as_secs_f64());
        in_tables.push(whole.as_secs_f64());
    }
    let of = |values: &[f64], share| percentile(values, share).unwrap_or(f64::NAN);
    report.tell("routes", f64::from(space.routes), "");
    report.tell("connect → the state is decoded, p50", of(&received, 0.5), "s");
    report.tell("connect → in the edge's tables, p50", of(&in_tables, 0.5), "s");
    report.bound("connect → in the edge's tables, slowest", of(&in_tables, 1.0), "s", 2.0);
    Ok(())
}

/// Until the state was there, and until it was in the tables.
async fn first(member: &Member) -> Result<(Duration, Duration)> {
    let (events, mut happens) = mpsc::channel(1);
    let (_commands, wanted) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let begun = Instant::now();
    let session = EdgeSession::new(member.client.clone(), None, "load", rand::random());
    let running = tokio::spawn(session.run(events, wanted, stop.clone()));
    let state = timeout(PATIENCE, async {
        loop {
            match happens.recv().await.context("the session has ended")? {
                Event::Desired { state, .. } => return Ok(state),
                Event::Disconnected(error) => bail!("{error}"),
                Event::Connected { .. }
                | Event::RenewReply(_)
                | Event::RenewNow
                | Event::Goodbye(_) => {}
            }
        }
    })
    .await??;
    let received = begun.elapsed();
    let table = fill(&state);
    let whole = begun.elapsed();
    anyhow::ensure!(table.len() == state.prefixes.len(), "{} prefixes", table.len());
    stop.cancel();
    running.await?;
    Ok((received, whole))
}

/// What an edge does with its first state: the difference to none, change by change into the core's table.
fn fill(state: &Desired) -> PrefixTable<u32> {
    let mut table = PrefixTable::new();
    let mut numbers = BTreeMap::new();
    for change in Desired::default().diff(state) {
        if let Change::Prefix { net, owner } = change {
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            table.insert(net, *numbers.entry(owner).or_insert(next));
        }
    }
    table
}

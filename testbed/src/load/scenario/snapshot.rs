//! An edge's first state with many routes: from the start of the connection until the routes are in the tables that
//! packets are looked up in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cframe_mesh::table::PrefixTable;
use cframe_protocol::session::{EdgeSession, Event};
use cframe_protocol::v1::{Change, Desired};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::TIMEOUT;
use crate::load::fleet::{EnrolledEdge, prepare_edges};
use crate::load::lab::LoadLab;
use crate::load::report::{Report, quantile};

const ROUNDS: usize = 5;

pub(super) async fn run(lab: &LoadLab, report: &mut Report) -> Result<()> {
    let namespace = lab.routes_namespace()?;
    let edge = prepare_edges(lab, &namespace, 1).await?.remove(0);
    let (mut decoded, mut in_tables) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let times = connect(&edge).await?;
        decoded.push(times.decoded.as_secs_f64());
        in_tables.push(times.in_tables.as_secs_f64());
    }
    report.record("routes", f64::from(namespace.routes), "");
    report.record("connect → the state is decoded, p50", quantile(&decoded, 0.5), "s");
    report.record("connect → in the edge's tables, p50", quantile(&in_tables, 0.5), "s");
    let slowest = quantile(&in_tables, 1.0);
    report.record_bounded("connect → in the edge's tables, slowest", slowest, "s", 2.0);
    Ok(())
}

/// Times since the start of the connection.
struct Times {
    decoded: Duration,
    in_tables: Duration,
}

async fn connect(edge: &EnrolledEdge) -> Result<Times> {
    let (event_sender, mut events) = mpsc::channel(1);
    let (_commands, command_receiver) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let start = Instant::now();
    let session = EdgeSession::new(edge.client.clone(), None, "load", rand::random());
    let session = tokio::spawn(session.run(event_sender, command_receiver, stop.clone()));
    let state = timeout(TIMEOUT, async {
        loop {
            match events.recv().await.context("the session has ended")? {
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
    let decoded = start.elapsed();
    let table = prefix_table(&state);
    let in_tables = start.elapsed();
    ensure!(table.len() == state.prefixes.len(), "{} prefixes are in the table", table.len());
    stop.cancel();
    session.await?;
    Ok(Times { decoded, in_tables })
}

/// Applies a first state as an edge does: as the difference to an empty one, change by change, into the core's table.
fn prefix_table(state: &Desired) -> PrefixTable<u32> {
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

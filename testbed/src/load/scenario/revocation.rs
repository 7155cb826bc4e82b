//! A certificate is revoked: from the command until the edges know and its session is closed; and whether that holds
//! after everything was started again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use cframe_pki::Serial;
use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, EdgeLiveness, Reply};

use super::PATIENCE;
use crate::bench::percentile;
use crate::load::edges::Edges;
use crate::load::fleet::{enrol_again, muster, serial};
use crate::load::operator::Operator;
use crate::load::report::Report;
use crate::load::world::{Space, World};

const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn run(world: &mut World, report: &mut Report) -> Result<()> {
    let space = world.many()?;
    let members = muster(world, &space, space.edges).await?;
    let edges = Edges::following(members.clone(), None);
    edges.until_online(edges.len(), PATIENCE).await?;
    let mut operator = world.operator().await?;
    operator.wait(&space.namespace, operator.version(&space.namespace).await?).await?;

    let rounds = (world.size.edits / 5).max(1).min(space.edges / 2);
    let (mut all, mut closed, mut revoked) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..rounds {
        let edge = space.edge(number)?;
        let serial = serial(world, &space, &edge)?;
        // Those that were revoked before hear nothing any more.
        let others = edges.len() - revoked.len() - 1;
        let (told, ended) = revoke(&operator, &edges, others, &edge, serial).await?;
        all.push(told.max(ended).as_secs_f64() * 1e3);
        closed.push(ended.as_secs_f64() * 1e3);
        revoked.push((edge, serial));
    }
    let of = |values: &[f64], share| percentile(values, share).unwrap_or(f64::NAN);
    report.tell("edges", edges.len() as f64, "");
    report.tell("command → its session is closed, p95", of(&closed, 0.95), "ms");
    report.tell("command → 99 % of the edges have it too, p50", of(&all, 0.5), "ms");
    report.bound("command → 99 % of the edges have it too, p95", of(&all, 0.95), "ms", 1_000.0);
    edges.stop().await;

    world.kill_and_start()?;
    operator.connect_again().await?;
    let edges = Edges::following(members, None);
    let others = edges.len() - revoked.len();
    edges.until_online(others, PATIENCE).await?;
    let version = operator.version(&space.namespace).await?;
    crate::load::world::until("the state at every other edge", PATIENCE, || {
        edges.at(version) >= others
    })
    .await?;
    let forgotten: usize =
        revoked.iter().map(|(_, serial)| others - edges.denying(*serial).min(others)).sum();
    report.bound(
        "denials that edges lack after a restart of everything",
        forgotten as f64,
        "",
        0.0,
    );
    let mut back = 0;
    for (edge, _) in &revoked {
        back += usize::from(is_online(&operator, &space, edge).await?);
    }
    report.bound("revoked edges with a session after it", back as f64, "", 0.0);
    edges.stop().await;
    for (edge, _) in &revoked {
        enrol_again(world, &space, edge).await?;
    }
    Ok(())
}

/// How long it took until 99 % of the others had it, and until the edge's session was closed.
async fn revoke(
    operator: &Operator,
    edges: &Edges,
    others: usize,
    edge: &Label,
    serial: Serial,
) -> Result<(Duration, Duration)> {
    let most = (others * 99).div_ceil(100);
    let begun = Instant::now();
    let call = Call::CertRevoke { serial, reason: "load".to_owned() };
    operator.change(call).await?;
    let (mut told, mut ended) = (None, None);
    loop {
        if ended.is_none() && !edges.is_online(edge) {
            ended = Some(begun.elapsed());
        }
        if told.is_none() && edges.denying(serial) >= most {
            told = Some(begun.elapsed());
        }
        if let (Some(told), Some(ended)) = (told, ended) {
            return Ok((told, ended));
        }
        ensure!(begun.elapsed() < PATIENCE, "the revocation of {edge} does not come through");
        tokio::time::sleep(LOOK).await;
    }
}

async fn is_online(operator: &Operator, space: &Space, edge: &Label) -> Result<bool> {
    let call = Call::EdgeShow { namespace: space.namespace.clone(), name: edge.clone() };
    let Reply::Edges(rows) = operator.call(call).await? else {
        bail!("the answer to edge-show is none")
    };
    Ok(rows.iter().any(|row| matches!(row.state, EdgeLiveness::Online { .. })))
}

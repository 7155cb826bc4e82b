//! Certificates are revoked: from the command until the edge's session is closed and the other edges know; then whether
//! that outlives a restart of everything.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use cframe_pki::Serial;
use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, EdgeLiveness, Reply};

use super::TIMEOUT;
use crate::load::edges::{RunningEdges, wait_for};
use crate::load::fleet::{EnrolledEdge, enrol_again, prepare_edges, serial};
use crate::load::lab::{LoadLab, NamespaceSpec};
use crate::load::operator::Operator;
use crate::load::report::{Report, quantile};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

pub(super) async fn run(lab: &mut LoadLab, report: &mut Report) -> Result<()> {
    let namespace = lab.large_namespace()?;
    let enrolled = prepare_edges(lab, &namespace, namespace.edges).await?;
    let edges = RunningEdges::start_followers(enrolled.clone(), None);
    edges.wait_online(edges.len(), TIMEOUT).await?;
    let mut operator = lab.operator().await?;
    operator.wait(&namespace.name, operator.version(&namespace.name).await?).await?;

    let rounds = (lab.size.edits / 5).max(1).min(namespace.edges / 2);
    let (mut complete, mut closed, mut revoked) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..rounds {
        let edge = namespace.edge_name(number)?;
        let serial = serial(lab, &namespace, &edge)?;
        // Edges that were revoked before receive nothing.
        let others = edges.len() - revoked.len() - 1;
        let times = revoke(&operator, &edges, others, &edge, serial).await?;
        complete.push(times.known.max(times.closed).as_secs_f64() * 1e3);
        closed.push(times.closed.as_secs_f64() * 1e3);
        revoked.push((edge, serial));
    }
    report.record("edges", edges.len() as f64, "");
    report.record("command → its session is closed, p95", quantile(&closed, 0.95), "ms");
    report.record("command → closed and at 99 % of the edges, p50", quantile(&complete, 0.5), "ms");
    let p95 = quantile(&complete, 0.95);
    report.record_bounded("command → closed and at 99 % of the edges, p95", p95, "ms", 1_000.0);
    edges.stop().await;

    lab.kill_and_start()?;
    operator.reconnect().await?;
    check_after_restart(&operator, &namespace, enrolled, &revoked, report).await?;
    for (edge, _) in &revoked {
        enrol_again(lab, &namespace, edge).await?;
    }
    Ok(())
}

/// Starts new edges on the restarted controller, the revoked ones among them.
async fn check_after_restart(
    operator: &Operator,
    namespace: &NamespaceSpec,
    enrolled: Vec<EnrolledEdge>,
    revoked: &[(Label, Serial)],
    report: &mut Report,
) -> Result<()> {
    let edges = RunningEdges::start_followers(enrolled, None);
    let others = edges.len() - revoked.len();
    edges.wait_online(others, TIMEOUT).await?;
    let version = operator.version(&namespace.name).await?;
    let others_at = || edges.count_at(version) >= others;
    wait_for("the state at every other edge", TIMEOUT, others_at).await?;
    let missing: usize =
        revoked.iter().map(|(_, serial)| others - edges.count_denying(*serial).min(others)).sum();
    let name = "denials missing at edges after a restart of everything";
    report.record_bounded(name, missing as f64, "", 0.0);
    let mut online = 0;
    for (edge, _) in revoked {
        online += usize::from(is_online(operator, namespace, edge).await?);
    }
    report.record_bounded("revoked edges with a session after it", online as f64, "", 0.0);
    edges.stop().await;
    Ok(())
}

/// Times since the command.
struct Times {
    /// 99 % of the other edges know.
    known: Duration,
    /// The revoked edge's session is closed.
    closed: Duration,
}

async fn revoke(
    operator: &Operator,
    edges: &RunningEdges,
    others: usize,
    edge: &Label,
    serial: Serial,
) -> Result<Times> {
    let most = (others * 99).div_ceil(100);
    let start = Instant::now();
    let call = Call::CertRevoke { serial, reason: "load".to_owned() };
    operator.change(call).await?;
    let (mut known, mut closed) = (None, None);
    loop {
        if closed.is_none() && !edges.is_online(edge) {
            closed = Some(start.elapsed());
        }
        if known.is_none() && edges.count_denying(serial) >= most {
            known = Some(start.elapsed());
        }
        if let (Some(known), Some(closed)) = (known, closed) {
            return Ok(Times { known, closed });
        }
        ensure!(start.elapsed() < TIMEOUT, "the revocation of {edge} does not take effect");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn is_online(operator: &Operator, namespace: &NamespaceSpec, edge: &Label) -> Result<bool> {
    let call = Call::EdgeShow { namespace: namespace.name.clone(), name: edge.clone() };
    let Reply::Edges(rows) = operator.call(call).await? else {
        bail!("edge-show was not answered with edges")
    };
    Ok(rows.iter().any(|row| matches!(row.state, EdgeLiveness::Online { .. })))
}

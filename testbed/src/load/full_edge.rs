//! The control session of a real edge: it holds the state, and reports its links.

use std::sync::Arc;
use std::time::Duration;

use cframe_pki::identity::Label;
use cframe_protocol::session::{Command, EdgeSession, Event};
use cframe_protocol::v1::{LinkReport, Report, Version};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::fleet::EnrolledEdge;
use super::observed::Observed;

/// As in the real edge.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(10);

pub(super) async fn run_full_edge(
    edge: EnrolledEdge,
    observed: Arc<Observed>,
    stop: CancellationToken,
) {
    let (event_sender, mut events) = mpsc::channel(1);
    let (commands, command_receiver) = mpsc::channel(4);
    let session = EdgeSession::new(edge.client, None, "load", rand::random());
    let session = session.run(event_sender, command_receiver, stop);
    let handler = async {
        let mut report = tokio::time::interval(REPORT_INTERVAL);
        report.reset_after(REPORT_INTERVAL.mul_f64(rand::random()));
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => handle_event(&observed, &commands, event).await,
                    None => return,
                },
                _ = report.tick() => {
                    let report = link_report(&observed, &edge.name);
                    let _ = commands.send(Command::Report(report)).await;
                }
            }
        }
    };
    tokio::join!(session, handler);
}

async fn handle_event(observed: &Observed, commands: &mpsc::Sender<Command>, event: Event) {
    match event {
        Event::Connected { .. } => observed.record_connected(),
        Event::Disconnected(error) => observed.record_disconnected(error.to_string()),
        Event::Desired { state, .. } => {
            let version = state.version;
            {
                let mut details = observed.lock();
                details.denied.extend(state.denied.iter().map(|entry| entry.serial));
                details.state = Some(state);
            }
            let _ = commands.send(Command::Ack(version)).await;
            observed.record_applied(version);
        }
        Event::RenewReply(_) | Event::RenewNow | Event::Goodbye(_) => {}
    }
}

fn link_report(observed: &Observed, own: &Label) -> Report {
    let details = observed.lock();
    let peers = details.state.iter().flat_map(|state| state.edges.keys());
    all_links_up(peers, own, details.applied.map(|(version, _)| version))
}

/// What an edge reports whose links to all peers are up.
pub(super) fn all_links_up<'a>(
    peers: impl Iterator<Item = &'a Label>,
    own: &Label,
    applied: Option<Version>,
) -> Report {
    let link = |peer: &Label| LinkReport {
        peer: peer.clone(),
        up: true,
        rtt_us: 12_345,
        path_mtu: 1_438,
        since_unix: 1_764_000_000,
    };
    Report {
        links: peers.filter(|name| *name != own).take(Report::MAX_LINKS).map(link).collect(),
        cert_not_after: 1_800_000_000,
        applied,
    }
}

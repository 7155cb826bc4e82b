//! The control session of an edge that holds no state: it follows versions and counts what it receives.
//!
//! A thousand full edges with 100,000 routes each would need 10 GB in this process, and would apply each edit a thousand
//! times on the processors that the controller uses. Real edges do that on their own hosts, in parallel. The traffic is
//! the same in frames, streams and connections.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cframe_protocol::frame::{Frame, Incoming, MAX_FRAME, Malformed};
use cframe_protocol::problem::Code;
use cframe_protocol::session::{Client, CloseCode, DEAD_AFTER, FrameReader, FrameWriter};
use cframe_protocol::v1::{
    Ack, Change, EdgeHello, Ping, Pong, Problem, Problems, Report, ToEdge, Update, Version,
};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::full_edge::REPORT_INTERVAL;
use super::observed::Observed;

/// As in the real edge.
const PING_AFTER: Duration = Duration::from_millis(1_500);
/// The longest delay before the next session.
const MAX_RETRY_DELAY: Duration = Duration::from_millis(500);

pub(super) struct Follower {
    pub(super) client: Client,
    /// What it has at the start.
    pub(super) have: Option<Version>,
    /// It reports a problem, or that there is none, at about this interval.
    pub(super) toggle: Option<Duration>,
    /// It reports these links, as a real edge does.
    pub(super) links: Option<Report>,
}

/// Runs one session after another until `stop`.
pub(super) async fn run_follower(
    mut follower: Follower,
    observed: Arc<Observed>,
    stop: CancellationToken,
) {
    // One process: a new session takes the place of the last one.
    let boot = rand::random();
    let sessions = async {
        loop {
            let reason = match run_session(&mut follower, boot, &observed).await {
                Ok(()) => "done".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            observed.record_disconnected(reason);
            sleep(MAX_RETRY_DELAY.mul_f64(rand::random())).await;
        }
    };
    stop.run_until_cancelled(sessions).await;
}

async fn run_session(follower: &mut Follower, boot: [u8; 16], observed: &Observed) -> Result<()> {
    let Follower { client, have, toggle, links } = follower;
    let connected = client.connect().await?;
    let (send, receive) = connected.connection.open_bi().await.context("opening the stream")?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive, MAX_FRAME));
    let hello = EdgeHello { have: *have, software: "load".to_owned(), boot };
    writer.send(&hello).await?;
    observed.record_connected();
    let (mut received, mut sent, mut nonce) = (Instant::now(), Instant::now(), 0);
    let mut reported = Problems::default();
    let mut toggle_at = toggle.map(|every| Instant::now() + every.mul_f64(rand::random()));
    let mut report_at = links.is_some().then(Instant::now);
    loop {
        let tick = (sent.max(received) + PING_AFTER).min(received + DEAD_AFTER);
        tokio::select! {
            message = reader.next::<Counted>() => {
                let Counted { message, bytes } = message?.context("the stream has ended")?;
                received = Instant::now();
                observed.lock().bytes += bytes as u64;
                match message {
                    ToEdge::Update(update) => {
                        if let Some(version) = check_update(&update, *have, observed)? {
                            *have = Some(version);
                            writer.send(&Ack { version }).await?;
                            observed.record_applied(version);
                            sent = Instant::now();
                        }
                    }
                    ToEdge::Ping(Ping { nonce, .. }) => {
                        writer.send(&Pong { nonce, version: *have }).await?;
                    }
                    ToEdge::Goodbye(goodbye) => bail!("goodbye: {:?}", goodbye.reason),
                    ToEdge::Pong(_) | ToEdge::RenewReply(_) | ToEdge::RenewNow(_) => {}
                }
            }
            () = sleep_until(toggle_at.unwrap_or(tick)), if toggle_at.is_some() => {
                reported = other_problems(&reported);
                writer.send(&reported).await?;
                observed.lock().problems += 1;
                sent = Instant::now();
                toggle_at = toggle.map(|every| Instant::now() + every.mul_f64(0.5 + rand::random::<f64>()));
            }
            () = sleep_until(report_at.unwrap_or(tick)), if report_at.is_some() => {
                if let Some(links) = links {
                    writer.send(links).await?;
                }
                sent = Instant::now();
                // Edges have not all started at the same time.
                report_at = Some(sent + REPORT_INTERVAL.mul_f64(0.5 + rand::random::<f64>()));
            }
            () = sleep_until(tick) => {
                if received.elapsed() >= DEAD_AFTER {
                    connected.connection.close(CloseCode::Done.into(), b"silent");
                    bail!("the controller is silent");
                }
                nonce += 1;
                writer.send(&Ping { nonce, version: *have }).await?;
                sent = Instant::now();
            }
        }
    }
}

/// A problem if there was none, and none if there was one.
fn other_problems(now: &Problems) -> Problems {
    if !now.problems.is_empty() {
        return Problems::default();
    }
    let code = Code::ForwardingOff;
    let problem = Problem {
        code: code.into(),
        severity: code.severity(),
        about: "eth1".to_owned(),
        text: "the kernel does not forward packets that arrive on eth1: net.ipv4.conf.eth1.forwarding is 0"
            .to_owned(),
        fix: Some("sysctl -w net.ipv4.conf.eth1.forwarding=1".to_owned()),
        since_unix: 1,
    };
    Problems { problems: vec![problem], more: 0 }
}

/// Returns the version to acknowledge if the update is complete.
fn check_update(
    update: &Update,
    have: Option<Version>,
    observed: &Observed,
) -> Result<Option<Version>> {
    if update.from.is_some() && update.from != have {
        bail!("an update from {:?} for an edge at {have:?}", update.from);
    }
    for change in &update.changes {
        if let Change::Denied(entry) = change {
            observed.lock().denied.insert(entry.serial);
        }
    }
    Ok(update.last.then_some(update.to))
}

/// A message, and its size on the stream.
struct Counted {
    message: ToEdge,
    bytes: usize,
}

impl Incoming for Counted {
    fn parse(frame: &Frame) -> Result<Option<Self>, Malformed> {
        const HEADER: usize = size_of::<u32>() + size_of::<u16>();
        let bytes = HEADER + frame.body.len();
        Ok(ToEdge::parse(frame)?.map(|message| Self { message, bytes }))
    }
}

//! An edge's session that holds no state: it follows versions, and counts what it is sent.
//!
//! A thousand whole edges with 100,000 routes each would be 10 GB in this process, and would have to apply each edit a
//! thousand times on the controller's own processors; on their own hosts they do that beside each other. What goes over
//! the network is the same, in frames, streams and connections.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cframe_protocol::frame::{Frame, Incoming, MAX_FRAME, Malformed};
use cframe_protocol::session::{Client, CloseCode, DEAD_AFTER, FrameReader, FrameWriter};
use cframe_protocol::v1::{Ack, Change, EdgeHello, Ping, Pong, ToEdge, Update, Version};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::edges::Seen;

/// As the real edge does.
const PING_AFTER: Duration = Duration::from_millis(1_500);
/// Before another session, at most.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows until stopped, in one session after the other.
pub(super) async fn follow(
    client: Client,
    mut have: Option<Version>,
    seen: Arc<Seen>,
    stop: CancellationToken,
) {
    let mut sessions = async || {
        loop {
            let end = session(&client, &mut have, &seen).await;
            seen.ended(&format!("{:#}", end.err().unwrap_or_else(|| anyhow::anyhow!("done"))));
            sleep(PAUSE.mul_f64(rand::random())).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = sessions() => {}
    }
}

async fn session(client: &Client, have: &mut Option<Version>, seen: &Seen) -> Result<()> {
    let connected = client.connect().await?;
    let (send, receive) = connected.connection.open_bi().await.context("opening the stream")?;
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive, MAX_FRAME));
    let hello = EdgeHello { have: *have, software: "load".to_owned(), boot: rand::random() };
    writer.send(&hello).await?;
    seen.connected();
    let (mut heard, mut sent, mut nonce) = (Instant::now(), Instant::now(), 0);
    loop {
        let tick = (sent.max(heard) + PING_AFTER).min(heard + DEAD_AFTER);
        tokio::select! {
            message = reader.next::<Counted>() => {
                let Counted { message, bytes } = message?.context("the stream has ended")?;
                heard = Instant::now();
                seen.received(bytes);
                match message {
                    ToEdge::Update(update) => {
                        if let Some(version) = take(update, *have, seen)? {
                            *have = Some(version);
                            writer.send(&Ack { version }).await?;
                            seen.applied(version);
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
            () = sleep_until(tick) => {
                if heard.elapsed() >= DEAD_AFTER {
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

/// The version to acknowledge, if the update is whole. One that leads on from another state is a fault of the
/// controller's.
fn take(update: Update, have: Option<Version>, seen: &Seen) -> Result<Option<Version>> {
    if update.from.is_some() && update.from != have {
        bail!("an update from {:?} for an edge at {have:?}", update.from);
    }
    for change in &update.changes {
        if let Change::Denied(entry) = change {
            seen.denied(entry.serial);
        }
    }
    Ok(update.last.then_some(update.to))
}

/// A message, and what it took of the stream.
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

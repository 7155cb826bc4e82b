//! The controller's side of an edge's session.
//!
//! Each session is one task. It knows the version that the edge has; when there is a newer one and the edge has
//! acknowledged the last, it sends the difference. So at most one update is on its way, later changes wait in the state
//! and not in a queue, and a slow edge delays only itself.
//!
//! The task ends when the connection does, when the edge is silent for [`DEAD_AFTER`] or breaks the protocol, when the
//! edge is removed or revoked or has a newer session, and when the controller stops.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cframe_pki::{
    identity::{Label, Role},
    verifier::PeerIdentity,
};
use cframe_protocol::{
    frame::{self, Frame, Incoming, Malformed, Message},
    session::{
        CloseCode, DEAD_AFTER, FrameReader, FrameWriter, PING_AFTER, ReadError, WriteError,
        transport::EDGE_STREAMS,
    },
    v1::{
        AdminReply, AdminRequest, CallError, EdgeHello, Enrolled, ErrorCode, FromEdge, Goodbye,
        GoodbyeReason, Ping, Pong, Problem, Problems, RenewNow, RenewReply, SessionDetail, Version,
    },
};
use quinn::Connection;
use thiserror::Error;
use tokio::{
    select,
    sync::watch,
    time::{Instant, error::Elapsed, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::address::canonical;
use crate::{
    audit::Act,
    context::Context,
    decide::{
        access::{self, Holder},
        call::{Lane, describe},
        cert,
    },
    keys::issuer::{leaf_serial, verify_csr},
    mesh::feed::Feed,
    sessions::{Claim, Entry, LastSeen, Order, goodbye_reason},
};

mod rivals;
mod unknown_cert;

/// For a goodbye to arrive, before the connection is closed.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// Characters of an edge's version that are stored.
const MAX_SOFTWARE: usize = 64;

/// How a session ended because of the edge or the network.
#[derive(Debug, Error)]
enum SessionError {
    #[error("the connection was lost: {0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("{0}")]
    Read(ReadError),
    #[error("{0}")]
    Write(#[from] WriteError),
    #[error("the edge was silent for {} s", DEAD_AFTER.as_secs())]
    Silent,
    #[error("the edge broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the edge made an admin call")]
    AdminCall,
    #[error("the edge ended the session")]
    Closed,
    #[error("the edge's certificate expired")]
    Expired,
}

/// The edge at the other end of a connection.
struct EdgeIdentity {
    peer: PeerIdentity,
    address: SocketAddr,
    namespace: Label,
    name: Label,
}

/// Serves an edge's connection and closes it.
pub(super) async fn serve(
    context: &Arc<Context>,
    connection: &Connection,
    peer: PeerIdentity,
    stop: &CancellationToken,
) {
    let Role::Edge { namespace, name } = peer.id.role.clone() else { return };
    connection.set_max_concurrent_bi_streams(EDGE_STREAMS.into());
    let edge =
        EdgeIdentity { peer, address: canonical(connection.remote_address()), namespace, name };
    let end = serve_session(context, connection, &edge, stop).await;
    let code = match &end {
        Ok(reason) => CloseCode::from(*reason),
        Err(
            SessionError::Protocol(_)
            | SessionError::AdminCall
            | SessionError::Read(ReadError::Length(_) | ReadError::Malformed(_)),
        ) => CloseCode::Protocol,
        Err(_) => CloseCode::Done,
    };
    let EdgeIdentity { namespace, name, address, .. } = &edge;
    match end {
        Ok(reason) => tracing::info!(%namespace, edge = %name, ?reason, "session ended"),
        Err(reason) => tracing::info!(%namespace, edge = %name, %address, %reason, "session ended"),
    }
    connection.close(code.into(), code.to_string().as_bytes());
}

async fn serve_session(
    context: &Arc<Context>,
    connection: &Connection,
    edge: &EdgeIdentity,
    stop: &CancellationToken,
) -> Result<GoodbyeReason, SessionError> {
    let deadline = Instant::now() + DEAD_AFTER;
    let (send, receive) = in_time(timeout_at(deadline, connection.accept_bi()).await)??;
    let mut writer = FrameWriter::new(send);
    let mut reader = FrameReader::new(receive, frame::MAX_FRAME);
    let first = in_time(timeout_at(deadline, reader.next::<FirstMessage>()).await)?;
    let hello = match first.map_err(SessionError::Read)? {
        Some(FirstMessage::Hello(hello)) => hello,
        Some(FirstMessage::Call(request)) => {
            refuse_call(context, edge, &mut writer, &request).await?;
            return Err(SessionError::AdminCall);
        }
        None => return Err(SessionError::Closed),
    };
    let have = hello.have;
    let claim = Claim {
        key: &(edge.namespace.clone(), edge.name.clone()),
        boot: hello.boot,
        address: edge.address,
        rtt: connection.rtt(),
        now: context.replica.now(),
        is_elsewhere: false,
    };
    if !context.replica.sessions.admits(&claim).await {
        return Ok(say_goodbye(&mut writer, GoodbyeReason::InUse).await);
    }
    let entry = register(context, edge, hello);
    entry.set_rtt(connection.rtt());
    // Checked again after it was registered: a concurrent revocation either finds the session or is found here.
    if let Err(refusal) = context.replica.trust().denial(&edge.peer) {
        return Ok(say_goodbye(&mut writer, goodbye_reason(&refusal)).await);
    }
    let known = context.replica.read(|state| {
        let namespace = state.namespaces.get(&edge.namespace);
        namespace.is_some_and(|namespace| namespace.edges.contains_key(&edge.name))
    });
    let Some(feed) = context.replica.feed(&edge.namespace).filter(|_| known) else {
        return Ok(say_goodbye(&mut writer, GoodbyeReason::Removed).await);
    };
    unknown_cert::record(&context.replica, edge).await;
    let mut ends = entry.end.clone();
    let expiry = context.replica.expiry(&edge.peer);
    let mut session = Session {
        context,
        edge,
        entry,
        connection,
        newest: feed.subscribe(),
        feed: &feed,
        link: Link::new(reader, writer),
        have,
        sent: None,
    };
    let reason = select! {
        end = session.run() => match end {
            // The feed closes when the namespace is removed, a moment before its sessions get their reason.
            Ok(()) => GoodbyeReason::Removed,
            Err(end) => return Err(end),
        },
        reason = end_reason(&mut ends) => reason,
        () = rivals::held_elsewhere(context, &claim) => GoodbyeReason::InUse,
        () = stop.cancelled() => GoodbyeReason::Shutdown,
        () = expiry => return Err(SessionError::Expired),
    };
    if session.link.writing {
        // A frame is half written, so no message can follow; the close code has the reason.
        return Ok(reason);
    }
    Ok(say_goodbye(&mut session.link.writer, reason).await)
}

/// An edge must start with a hello. A call is recognised so that the refusal has a reason.
enum FirstMessage {
    Hello(EdgeHello),
    Call(AdminRequest),
}

impl Incoming for FirstMessage {
    fn parse(frame: &Frame) -> Result<Option<Self>, Malformed> {
        match frame.kind {
            EdgeHello::TYPE => frame.decode().map(|hello| Some(Self::Hello(hello))),
            AdminRequest::TYPE => frame.decode().map(|call| Some(Self::Call(call))),
            _ => Ok(None),
        }
    }
}

async fn refuse_call(
    context: &Context,
    edge: &EdgeIdentity,
    writer: &mut FrameWriter,
    request: &AdminRequest,
) -> Result<(), SessionError> {
    let call = describe(&request.call);
    let error = access::permit(&Holder::Edge, &call).err().unwrap_or_else(|| {
        CallError::new(ErrorCode::NotAllowed, "an edge may make no admin calls")
    });
    context.replica.metrics.call(call.name, Some(error.code));
    let act = Act::call(&edge.peer, edge.address, &call, request.dry_run);
    context.replica.record_outcome(&act, Some(&error));
    writer.send(&AdminReply { result: Err(error) }).await?;
    writer.finish();
    // If the peer does not take the answer, the connection is closed without it.
    let _ = timeout(GOODBYE_TIMEOUT, writer.delivered()).await;
    Ok(())
}

fn register<'a>(context: &'a Context, edge: &EdgeIdentity, hello: EdgeHello) -> Entry<'a> {
    let EdgeIdentity { peer, address, namespace, name } = edge;
    let software = hello.software.chars().filter(|c| !c.is_control());
    let software: String = software.take(MAX_SOFTWARE).collect();
    tracing::info!(%namespace, edge = %name, %address, %software, "session started");
    let seen = LastSeen {
        online: true,
        since: context.replica.now(),
        software,
        address: *address,
        applied: hello.have,
        links: Vec::new(),
        problems: Problems::default(),
        detail: SessionDetail {
            boot: hello.boot,
            applied_since: context.replica.now(),
            ..SessionDetail::default()
        },
    };
    let (key, clock) = ((namespace.clone(), name.clone()), context.replica.clock());
    context.replica.sessions.enter(key, peer.clone(), seen, clock)
}

/// Waits until the session has to end.
async fn end_reason(ends: &mut watch::Receiver<Option<GoodbyeReason>>) -> GoodbyeReason {
    match ends.wait_for(Option::is_some).await.map(|reason| *reason) {
        Ok(Some(reason)) => reason,
        // The edge was removed, and its entry with it.
        Ok(None) | Err(_) => GoodbyeReason::Removed,
    }
}

/// Sends a goodbye. It may fail to arrive; the close code that follows has the reason too.
async fn say_goodbye(writer: &mut FrameWriter, reason: GoodbyeReason) -> GoodbyeReason {
    let sending = async {
        if writer.send(&Goodbye { reason }).await.is_ok() {
            writer.finish();
            writer.delivered().await;
        }
    };
    let _ = timeout(GOODBYE_TIMEOUT, sending).await;
    reason
}

struct Session<'a> {
    context: &'a Arc<Context>,
    edge: &'a EdgeIdentity,
    entry: Entry<'a>,
    connection: &'a Connection,
    feed: &'a Feed,
    newest: watch::Receiver<Version>,
    link: Link,
    /// What the edge has.
    have: Option<Version>,
    /// What it was sent and has not acknowledged.
    sent: Option<Version>,
}

impl Session<'_> {
    /// Returns `Ok` when the namespace was removed.
    async fn run(&mut self) -> Result<(), SessionError> {
        self.newest.mark_changed();
        loop {
            let deadline = self.link.deadline();
            select! {
                changed = self.newest.changed(), if self.sent.is_none() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.send_update().await?;
                }
                message = self.link.reader.next::<FromEdge>() => {
                    let message = message.map_err(SessionError::Read)?.ok_or(SessionError::Closed)?;
                    self.link.received_at = Instant::now();
                    self.handle(message).await?;
                }
                Some(order) = self.entry.orders.recv() => match order {
                    Order::RenewNow => self.link.send(&RenewNow {}).await?,
                    Order::Ping => {
                        let newest = *self.newest.borrow();
                        self.link.send_ping(newest).await?;
                    }
                },
                () = sleep_until(deadline) => {
                    let newest = *self.newest.borrow();
                    self.link.ping(newest).await?;
                }
            }
        }
    }

    /// Sends what the edge lacks.
    async fn send_update(&mut self) -> Result<(), SessionError> {
        let replica = &self.context.replica;
        let announced = *self.newest.borrow_and_update();
        if let Some(have) = self.have.filter(|have| *have != announced) {
            // The last update may have been of a newer version than the one that was announced since. And an edge never
            // goes back: another controller may be ahead of this one.
            let newest = replica.read(|state| state.version(&self.edge.namespace));
            if let Some(newest) = newest.filter(|newest| !newest.at_least(&have)) {
                replica.metrics.edge_ahead();
                tracing::warn!(
                    namespace = %self.edge.namespace, edge = %self.edge.name, %have, %newest,
                    "the edge has a newer state than this controller; if that does not change, the store was \
                     replaced by an older copy: see cfctl status"
                );
                return Ok(());
            }
        }
        if self.have.is_some_and(|have| have.at_least(&announced)) {
            return Ok(());
        }
        let started = Instant::now();
        let Some(updates) = replica.frames(self.feed, &self.edge.namespace, self.have) else {
            return Ok(());
        };
        if self.have == Some(updates.to) {
            return Ok(());
        }
        for frame in &updates.frames {
            replica.metrics.update(updates.from.is_none(), frame.len());
            self.link.send_encoded(frame.clone()).await?;
        }
        self.sent = Some(updates.to);
        self.entry.set_sent();
        if started.elapsed() > PING_AFTER {
            // The edge took the frames, and what it sent meanwhile was not read yet.
            self.link.received_at = Instant::now();
        }
        Ok(())
    }

    async fn handle(&mut self, message: FromEdge) -> Result<(), SessionError> {
        match message {
            FromEdge::Hello(_) => Err(SessionError::Protocol("a second hello")),
            FromEdge::Ack(ack) => {
                if self.sent != Some(ack.version) {
                    // It may be for an update of an earlier session.
                    return Ok(());
                }
                self.have = self.sent.take();
                self.entry.set_applied(ack.version);
                self.send_update().await
            }
            FromEdge::Ping(Ping { nonce, .. }) => {
                let version = Some(*self.newest.borrow());
                self.link.send(&Pong { nonce, version }).await
            }
            FromEdge::Pong(_) => {
                self.entry.set_rtt(self.connection.rtt());
                self.entry.count_pong();
                Ok(())
            }
            FromEdge::Report(report) => {
                self.entry.set_report(report);
                Ok(())
            }
            FromEdge::Problems(problems) => {
                self.entry.set_problems(limited(problems));
                Ok(())
            }
            FromEdge::RenewRequest(request) => {
                let result = self.renew(&request.csr).await;
                self.link.send(&RenewReply { result }).await
            }
        }
    }

    async fn renew(&self, csr: &[u8]) -> Result<Enrolled, CallError> {
        let EdgeIdentity { peer, address, namespace, name } = self.edge;
        let replica = &self.context.replica;
        let act = Act::by(peer, *address, "renewal").about(namespace, name);
        let result = self.issue_renewal(csr, &act).await;
        replica.record_outcome(&act, result.as_ref().err());
        replica.metrics.issued("renewal", result.is_ok());
        match &result {
            Ok(enrolled) => {
                let serial = leaf_serial(&enrolled.chain);
                tracing::info!(%namespace, edge = %name, serial, "certificate renewed");
            }
            Err(error) => tracing::warn!(%namespace, edge = %name, %error, "renewal refused"),
        }
        result
    }

    async fn issue_renewal(&self, csr: &[u8], act: &Act) -> Result<Enrolled, CallError> {
        let EdgeIdentity { peer, namespace, name, .. } = self.edge;
        let csr = verify_csr(csr)?;
        let replica = &self.context.replica;
        let issuer = self.context.issuer.current();
        let lane = Lane::Namespace(namespace.clone());
        let written = replica.write(&lane, act, |state| {
            cert::renew(state, &issuer, (namespace, name), peer.serial, &csr, replica.now())
        });
        written.await.map(|(_, enrolled)| enrolled)
    }
}

/// The session's stream, and when it was last used.
struct Link {
    reader: FrameReader,
    writer: FrameWriter,
    /// A frame may be half written.
    writing: bool,
    received_at: Instant,
    sent_at: Instant,
    nonce: u64,
}

impl Link {
    fn new(reader: FrameReader, writer: FrameWriter) -> Self {
        let now = Instant::now();
        Self { reader, writer, writing: false, received_at: now, sent_at: now, nonce: 0 }
    }

    /// When to [`ping`](Self::ping).
    fn deadline(&self) -> Instant {
        (self.sent_at + PING_AFTER).min(self.received_at + DEAD_AFTER)
    }

    async fn ping(&mut self, newest: Version) -> Result<(), SessionError> {
        if Instant::now() >= self.received_at + DEAD_AFTER {
            return Err(SessionError::Silent);
        }
        self.send_ping(newest).await
    }

    async fn send_ping(&mut self, newest: Version) -> Result<(), SessionError> {
        self.nonce += 1;
        self.send(&Ping { nonce: self.nonce, version: Some(newest) }).await
    }

    async fn send<M: Message>(&mut self, message: &M) -> Result<(), SessionError> {
        let frame = frame::encode(message).map_err(WriteError::from)?;
        self.send_encoded(frame).await
    }

    /// An edge that does not take a frame is as dead as a silent one.
    async fn send_encoded(&mut self, frame: bytes::Bytes) -> Result<(), SessionError> {
        self.writing = true;
        let sending = self.writer.send_encoded(frame);
        timeout(DEAD_AFTER, sending).await.map_err(|_| SessionError::Silent)??;
        self.writing = false;
        self.sent_at = Instant::now();
        Ok(())
    }
}

/// What an edge may report at most.
fn limited(mut all: Problems) -> Problems {
    let shorten = |text: &mut String, max: usize| {
        let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    };
    all.problems.truncate(Problems::MAX);
    for problem in &mut all.problems {
        shorten(&mut problem.about, Problem::MAX_ABOUT);
        shorten(&mut problem.text, Problem::MAX_TEXT);
        if let Some(fix) = &mut problem.fix {
            shorten(fix, Problem::MAX_TEXT);
        }
    }
    all
}

fn in_time<T>(result: Result<T, Elapsed>) -> Result<T, SessionError> {
    result.map_err(|_| SessionError::Silent)
}

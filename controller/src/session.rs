//! An edge's session, the controller's side.
//!
//! One task per session: it keeps the version that the edge has, and when there is a newer one and the edge
//! has acknowledged the last, sends the difference. So at most one update is on its way, later changes wait
//! in the state and not in a queue, and what a slow edge holds up is its own window.
//!
//! The task ends when the connection does, when the edge is silent for [`DEAD_AFTER`], when it breaks the
//! protocol, or by order: its edge is removed or revoked, has a newer session, or the controller stops.

use std::{net::SocketAddr, sync::Arc};

use cframe_pki::{
    identity::{Label, Role},
    verifier::{PeerIdentity, Refusal},
};
use cframe_protocol::{
    frame::{self, Frame, Incoming, Malformed, Message},
    session::{CloseCode, DEAD_AFTER, FrameReader, FrameWriter, PING_AFTER, ReadError, WriteError},
    v1::{
        AdminReply, AdminRequest, CallError, EdgeHello, ErrorCode, FromEdge, Goodbye,
        GoodbyeReason, Ping, Pong, RenewNow, RenewReply, Version,
    },
};
use quinn::Connection;
use thiserror::Error;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

mod adopt;
mod registry;

pub use registry::{Entry, Order, Registry, Seen};

use crate::{audit::Act, calls, feed::Feed, issuing, roles, server::Context};

/// How long a goodbye may take to arrive before the connection is closed under it.
const FAREWELL: std::time::Duration = std::time::Duration::from_millis(500);

/// Why a session ended by the edge's doing or the network's.
#[derive(Debug, Error)]
enum Ended {
    #[error("the connection was lost: {0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("{0}")]
    Read(ReadError),
    #[error("{0}")]
    Write(#[from] WriteError),
    #[error("the edge has been silent for {} s", DEAD_AFTER.as_secs())]
    Silent,
    #[error("the edge broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the edge made an admin call")]
    AdminCall,
    #[error("the edge ended the session")]
    Done,
    #[error("the certificate that it was begun with has expired")]
    Expired,
}

/// Serves an edge's connection to its end and closes it.
pub async fn serve(
    context: &Arc<Context>,
    connection: &Connection,
    peer: PeerIdentity,
    stop: &CancellationToken,
) {
    let Role::Edge { namespace, name } = peer.id.role.clone() else { return };
    connection.set_max_concurrent_bi_streams(1u32.into());
    let address = connection.remote_address();
    let end = converse(context, connection, peer, (namespace.clone(), name.clone()), stop).await;
    let code = match &end {
        Ok(reason) => CloseCode::from(*reason),
        Err(Ended::Protocol(_) | Ended::AdminCall) => CloseCode::Protocol,
        Err(Ended::Read(ReadError::Length(_) | ReadError::Malformed(_))) => CloseCode::Protocol,
        Err(_) => CloseCode::Done,
    };
    match end {
        Ok(reason) => tracing::info!(%namespace, edge = %name, ?reason, "session ended"),
        Err(reason) => tracing::info!(%namespace, edge = %name, %address, %reason, "session ended"),
    }
    connection.close(code.into(), code.to_string().as_bytes());
}

async fn converse(
    context: &Arc<Context>,
    connection: &Connection,
    peer: PeerIdentity,
    key: (Label, Label),
    stop: &CancellationToken,
) -> Result<GoodbyeReason, Ended> {
    let deadline = Instant::now() + DEAD_AFTER;
    let (send, receive) = in_time(timeout_at(deadline, connection.accept_bi()).await)??;
    let mut writer = FrameWriter::new(send);
    let mut reader = FrameReader::new(receive, frame::MAX_FRAME);
    let opening = in_time(timeout_at(deadline, reader.next::<Opening>()).await)?;
    let hello = match opening.map_err(read)? {
        Some(Opening::Hello(hello)) => hello,
        Some(Opening::Call(request)) => {
            refuse_call(context, &peer, connection.remote_address(), &mut writer, &request).await?;
            return Err(Ended::AdminCall);
        }
        None => return Err(Ended::Done),
    };
    let entry = enter(context, &peer, &key, hello, connection.remote_address());
    // Registered first, judged again then: a revocation in between closes one way or the other.
    if let Err(refusal) = context.mesh.trust().denial(&peer) {
        return Ok(farewell(&mut writer, goodbye(&refusal)).await);
    }
    let known = context.mesh.read(|state| {
        state.namespaces.get(&key.0).is_some_and(|space| space.edges.contains_key(&key.1))
    });
    let Some(feed) = context.mesh.feed(&key.0).filter(|_| known) else {
        return Ok(farewell(&mut writer, GoodbyeReason::Removed).await);
    };
    adopt::adopt(&context.mesh, &peer, connection.remote_address()).await;
    let mut ends = entry.0.end.clone();
    let expiry = context.mesh.expiry(&peer);
    let mut session = Session::new(
        context,
        (&peer, connection.remote_address()),
        &key,
        entry,
        &feed,
        reader,
        writer,
    );
    let order = select! {
        end = session.run() => match end {
            // The feed closes with the namespace, a moment before its edges are told.
            Ok(()) => GoodbyeReason::Removed,
            Err(end) => return Err(end),
        },
        reason = ordered(&mut ends) => reason,
        () = stop.cancelled() => GoodbyeReason::Shutdown,
        () = expiry => return Err(Ended::Expired),
    };
    if session.writing {
        // In the middle of a frame nothing can be said; the close code says it.
        return Ok(order);
    }
    Ok(farewell(&mut session.writer, order).await)
}

/// What an edge is told that is cut off. One whose root was removed may have a newer certificate, and is to
/// come back with that.
pub(crate) fn goodbye(refusal: &Refusal) -> GoodbyeReason {
    if *refusal == Refusal::RootRemoved { GoodbyeReason::Shutdown } else { GoodbyeReason::Revoked }
}

/// What a connection may begin with. A call is recognised in order to be refused with a reason.
enum Opening {
    Hello(EdgeHello),
    Call(AdminRequest),
}

impl Incoming for Opening {
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
    peer: &PeerIdentity,
    from: SocketAddr,
    writer: &mut FrameWriter,
    request: &AdminRequest,
) -> Result<(), Ended> {
    let refusal = roles::permit(&roles::Holder::Edge, &request.call);
    let error = refusal.err().unwrap_or_else(|| {
        CallError::new(ErrorCode::NotAllowed, "an edge may make no admin calls")
    });
    context.mesh.metrics.call(request.call.name(), Some(error.code));
    let act = Act::call(peer, from, &request.call, request.dry_run);
    context.mesh.settle(&act, Some(&error));
    writer.send(&AdminReply { result: Err(error) }).await?;
    writer.finish();
    // A peer that does not take the answer is closed without it.
    let _ = timeout(FAREWELL, writer.delivered()).await;
    Ok(())
}

fn enter<'a>(
    context: &'a Context,
    peer: &PeerIdentity,
    key: &(Label, Label),
    hello: EdgeHello,
    address: SocketAddr,
) -> (Entry<'a>, Option<Version>) {
    let (namespace, edge) = key;
    let software: String = hello.software.chars().filter(|c| !c.is_control()).take(64).collect();
    tracing::info!(%namespace, %edge, %address, %software, "session begun");
    let seen = Seen {
        online: true,
        since: context.mesh.now(),
        software,
        address,
        applied: hello.have,
        links: Vec::new(),
    };
    let entry = context.mesh.sessions.enter(key.clone(), peer.clone(), seen, context.mesh.clock());
    (entry, hello.have)
}

async fn ordered(ends: &mut watch::Receiver<Option<GoodbyeReason>>) -> GoodbyeReason {
    match ends.wait_for(Option::is_some).await.map(|why| *why) {
        Ok(Some(reason)) => reason,
        // Removed from the registry: the edge is gone.
        Ok(None) | Err(_) => GoodbyeReason::Removed,
    }
}

async fn farewell(writer: &mut FrameWriter, reason: GoodbyeReason) -> GoodbyeReason {
    let say = async {
        if writer.send(&Goodbye { reason }).await.is_ok() {
            writer.finish();
            writer.delivered().await;
        }
    };
    // Whether it arrives or not, the connection is closed next, with the reason as its code.
    let _ = timeout(FAREWELL, say).await;
    reason
}

struct Session<'a> {
    context: &'a Arc<Context>,
    peer: &'a PeerIdentity,
    address: SocketAddr,
    key: &'a (Label, Label),
    entry: Entry<'a>,
    feed: &'a Feed,
    newest: watch::Receiver<Version>,
    reader: FrameReader,
    writer: FrameWriter,
    /// A frame may be half written.
    writing: bool,
    /// What the edge has.
    have: Option<Version>,
    /// What it was sent and has not acknowledged.
    sent: Option<Version>,
    heard: Instant,
    spoke: Instant,
    nonce: u64,
}

impl<'a> Session<'a> {
    fn new(
        context: &'a Arc<Context>,
        (peer, address): (&'a PeerIdentity, SocketAddr),
        key: &'a (Label, Label),
        (entry, have): (Entry<'a>, Option<Version>),
        feed: &'a Feed,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> Self {
        let now = Instant::now();
        Self {
            context,
            peer,
            address,
            key,
            entry,
            feed,
            newest: feed.subscribe(),
            reader,
            writer,
            writing: false,
            have,
            sent: None,
            heard: now,
            spoke: now,
            nonce: 0,
        }
    }

    /// Ends well only when the namespace does.
    async fn run(&mut self) -> Result<(), Ended> {
        self.newest.mark_changed();
        loop {
            let tick = (self.spoke + PING_AFTER).min(self.heard + DEAD_AFTER);
            select! {
                changed = self.newest.changed(), if self.sent.is_none() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.push().await?;
                }
                message = self.reader.next::<FromEdge>() => {
                    let message = message.map_err(read)?.ok_or(Ended::Done)?;
                    self.heard = Instant::now();
                    self.message(message).await?;
                }
                Some(order) = self.entry.orders.recv() => match order {
                    Order::RenewNow => self.send(&RenewNow {}).await?,
                },
                () = sleep_until(tick) => self.tick().await?,
            }
        }
    }

    /// Sends what the edge lacks, if it lacks anything.
    async fn push(&mut self) -> Result<(), Ended> {
        let announced = *self.newest.borrow_and_update();
        if let Some(have) = self.have.filter(|have| *have != announced) {
            // What it was sent last may be newer than what has been announced since; and never back: another
            // controller may be ahead of this one.
            let newest = self.context.mesh.read(|state| state.version(&self.key.0));
            if let Some(newest) = newest.filter(|newest| !newest.at_least(&have)) {
                self.context.mesh.metrics.behind();
                tracing::warn!(
                    namespace = %self.key.0, edge = %self.key.1, %have, %newest,
                    "the edge has a newer state than this controller; if that stays so, the store was put \
                     back from a copy: use restore"
                );
                return Ok(());
            }
        }
        if self.have.is_some_and(|have| have.at_least(&announced)) {
            return Ok(());
        }
        let begun = Instant::now();
        let Some(updates) = self.context.mesh.frames(self.feed, &self.key.0, self.have) else {
            return Ok(());
        };
        if self.have == Some(updates.to) {
            return Ok(());
        }
        for frame in &updates.frames {
            self.context.mesh.metrics.update(updates.from.is_none(), frame.len());
            self.send_encoded(frame.clone()).await?;
        }
        self.sent = Some(updates.to);
        if begun.elapsed() > PING_AFTER {
            // It took what was sent, and what it said meanwhile is still to be read.
            self.heard = Instant::now();
        }
        Ok(())
    }

    async fn message(&mut self, message: FromEdge) -> Result<(), Ended> {
        match message {
            FromEdge::Hello(_) => Err(Ended::Protocol("a second hello")),
            FromEdge::Ack(ack) => {
                if self.sent != Some(ack.version) {
                    // Of an update that was sent in an earlier session, perhaps; it changes nothing here.
                    return Ok(());
                }
                self.have = self.sent.take();
                self.entry.applied(ack.version);
                self.push().await
            }
            FromEdge::Ping(Ping { nonce, .. }) => {
                let version = Some(*self.newest.borrow());
                self.send(&Pong { nonce, version }).await
            }
            FromEdge::Pong(_) => Ok(()),
            FromEdge::Report(report) => {
                self.entry.reported(report);
                Ok(())
            }
            FromEdge::RenewRequest(request) => {
                let result = self.renew(&request.csr).await;
                self.send(&RenewReply { result }).await
            }
        }
    }

    async fn renew(&self, csr: &[u8]) -> Result<cframe_protocol::v1::Enrolled, CallError> {
        let (namespace, name) = self.key;
        let mesh = &self.context.mesh;
        let act = Act::by(self.peer, self.address, "renewal").about(namespace, name);
        let result = self.renewed(csr, &act).await;
        mesh.settle(&act, result.as_ref().err());
        mesh.metrics.issued("renewal", result.is_ok());
        match &result {
            Ok(enrolled) => {
                let serial = issuing::serial(&enrolled.chain);
                tracing::info!(%namespace, edge = %name, serial, "certificate renewed");
            }
            Err(error) => tracing::warn!(%namespace, edge = %name, %error, "renewal refused"),
        }
        result
    }

    async fn renewed(
        &self,
        csr: &[u8],
        act: &Act,
    ) -> Result<cframe_protocol::v1::Enrolled, CallError> {
        let csr = issuing::verify_csr(csr)?;
        let (namespace, name) = self.key;
        let mesh = &self.context.mesh;
        let issuer = self.context.issuer.current();
        let written = mesh.write(namespace.as_str(), act, |state| {
            let of = (namespace, name);
            calls::renew(state, &issuer, of, self.peer.serial, &csr, mesh.now())
        });
        written.await.map(|(_, enrolled)| enrolled)
    }

    async fn tick(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        if now >= self.heard + DEAD_AFTER {
            return Err(Ended::Silent);
        }
        self.nonce += 1;
        let ping = Ping { nonce: self.nonce, version: Some(*self.newest.borrow()) };
        self.send(&ping).await
    }

    async fn send<M: Message>(&mut self, message: &M) -> Result<(), Ended> {
        let frame = frame::encode(message).map_err(WriteError::from)?;
        self.send_encoded(frame).await
    }

    /// An edge that takes nothing is as dead as one that says nothing.
    async fn send_encoded(&mut self, frame: bytes::Bytes) -> Result<(), Ended> {
        self.writing = true;
        let sending = self.writer.send_encoded(frame);
        timeout(DEAD_AFTER, sending).await.map_err(|_| Ended::Silent)??;
        self.writing = false;
        self.spoke = Instant::now();
        Ok(())
    }
}

fn in_time<T>(result: Result<T, tokio::time::error::Elapsed>) -> Result<T, Ended> {
    result.map_err(|_| Ended::Silent)
}

fn read(error: ReadError) -> Ended {
    Ended::Read(error)
}

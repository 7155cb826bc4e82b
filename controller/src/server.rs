//! The controller as a library: [`run`] gets its sockets, its store and its keys as arguments, and serves
//! until it is told to stop.
//!
//! Its tasks, all of them children of `run`, which returns when the last has ended:
//! - one follows the store ([`Mesh::follow`]);
//! - one accepts on each port, and each connection has one, with one more per admin call;
//! - one renews the controller's own certificate, one clears away what has expired;
//! - one writes records of the audit log, one trims it;
//! - one says in the store that this controller runs, one keeps its registration true;
//! - one serves HTTP, one the local socket, where there are such.
//!
//! A stop is a goodbye to every edge, an end to accepting, and a closed store. So is the controller's own
//! removal from the mesh.

use std::{
    net::UdpSocket,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::{
    identity::{Label, Role},
    tls::{self, LiveCredentials},
    verifier::{PeerIdentity, PeerVerifier, Policy},
};
use cframe_protocol::{
    frame::MAX_FRAME,
    session::{CloseCode, FrameReader, FrameWriter, transport},
    v1::{AdminReply, AdminRequest},
};
use cframe_store::Store;
use quinn::{Connection, Endpoint, Incoming, TokioRuntime};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admission, Limits, Verdict},
    audit,
    authorities::Authorities,
    calls::{self, Caller},
    enroll, expiry, http,
    issuing::{Issuer, LiveIssuer},
    local,
    mesh::{Mesh, OpenError},
    peers::{self, Peers},
    presence, registration,
    reset::ResetSecret,
    session, upkeep,
};

/// From the first packet to the finished handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// From a stream's opening to the whole request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long the sessions' goodbyes may take.
const FAREWELL: Duration = Duration::from_millis(1_200);
/// How long an admin may leave a piece of an answer untaken.
const SLOW: Duration = Duration::from_secs(30);
/// Pieces of an answer that wait for a slow admin.
const PIECES: usize = 4;

/// All that a controller runs on.
pub struct Parts {
    /// The store, opened and with a mesh in it.
    pub store: Arc<dyn Store>,
    /// The issuing CA.
    pub issuer: Issuer,
    /// Where other issuing CAs of this controller lie, if anywhere.
    pub authorities: Option<Authorities>,
    /// The controller's own certificate.
    pub credentials: LiveCredentials,
    /// Where renewed credentials are kept; `None` for nowhere.
    pub credentials_dir: Option<PathBuf>,
    /// By which former connections are ended after a restart.
    pub resets: ResetSecret,
    /// The control port.
    pub control: UdpSocket,
    /// The enrolment port.
    pub enroll: UdpSocket,
    /// Where `/metrics`, `/healthz` and `/readyz` are served, if anywhere.
    pub http: Option<TcpListener>,
    /// Where `backup`, `admin` and `ca` ask, if anywhere.
    pub local: Option<UnixListener>,
    /// The time in Unix seconds.
    pub clock: crate::mesh::Clock,
    /// The bounds of the audit log.
    pub audit: audit::Keep,
}

/// What connections share.
pub struct Context {
    /// The mesh.
    pub mesh: Mesh,
    /// The issuing CA in use.
    pub issuer: LiveIssuer,
    /// Where other issuing CAs of this controller lie, if anywhere.
    pub authorities: Option<Authorities>,
    /// The controller's own certificate.
    pub credentials: LiveCredentials,
    /// Where renewed credentials are kept; `None` for nowhere.
    pub credentials_dir: Option<PathBuf>,
    /// One at a time takes the place of the issuing CA or of the controller's certificate.
    pub renewing: tokio::sync::Mutex<()>,
    /// The port that join tokens name.
    pub enroll_port: u16,
    /// When it began.
    pub started: Instant,
    /// Ends answers that would go on.
    pub(crate) stop: CancellationToken,
    /// The same in Unix seconds.
    pub began: u64,
    /// The connections to other controllers.
    pub peers: Peers,
}

impl Context {
    /// The controller's name.
    pub fn name(&self) -> Label {
        self.credentials.identity().id.role.name().clone()
    }
}

/// Why a controller cannot run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The store cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The mesh in the store is not the one that the keys are for.
    #[error("the store is of mesh {store} and the controller's certificate of mesh {certificate}")]
    OtherMesh {
        /// The store's mesh.
        store: String,
        /// The certificate's.
        certificate: String,
    },
    /// The certificate is not a controller's.
    #[error("{0} is not a controller's certificate")]
    NotController(String),
    /// It is not one of the mesh's controllers any more.
    #[error(
        "controller {0} was removed from the mesh, or its certificate or CA revoked: add it again with \
         `cframe-controller init --join`, if the CA was revoked with an empty --data-dir"
    )]
    Removed(Label),
    /// A port cannot be used.
    #[error("the {port} port cannot be used: {error}")]
    Socket {
        /// Which.
        port: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// A fault of this program.
    #[error("following the store ended by a fault of this program (see the log); start again")]
    Broken,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Runs a controller until `stop`. Everything that it began has ended when this returns.
///
/// # Errors
/// If it cannot begin; once it serves, it serves until it is stopped.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), RunError> {
    let Parts { store, issuer, credentials, resets, control, enroll, clock, .. } = parts;
    let name = credentials.identity().id.role.name().clone();
    let mesh = Mesh::open(Arc::clone(&store), clock, name, parts.audit).await?;
    check_identity(&mesh, &credentials)?;
    let enroll_port = socket("enrolment", enroll.local_addr())?.port();
    // Sessions first: while they end, the store is still followed and still takes writes.
    let (serving, background) = (stop.child_token(), CancellationToken::new());
    let (started, began) = (Instant::now(), mesh.now());
    let context = Arc::new(Context {
        mesh,
        issuer: LiveIssuer::new(issuer),
        authorities: parts.authorities,
        credentials,
        credentials_dir: parts.credentials_dir,
        renewing: tokio::sync::Mutex::default(),
        enroll_port,
        started,
        began,
        peers: Peers::default(),
        stop: serving.clone(),
    });
    if !registration::is_member(&context) {
        return Err(RunError::Removed(context.name()));
    }
    let control = control_endpoint(&context, &resets, control)?;
    let enroll = enroll_endpoint(&context, &resets, enroll)?;
    let sessions = TaskTracker::new();
    let services = TaskTracker::new();
    let mut follower = {
        let (context, background) = (Arc::clone(&context), background.clone());
        services.spawn(async move { context.mesh.follow(background).await })
    };
    services.spawn(upkeep::renew_own(Arc::clone(&context), background.clone()));
    services.spawn(expiry::watch(Arc::clone(&context), background.clone()));
    services.spawn(upkeep::sweep(Arc::clone(&context), background.clone()));
    services.spawn(audit::journal::write_out(Arc::clone(&context), background.clone()));
    services.spawn(audit::trim::keep_within(Arc::clone(&context), background.clone()));
    services.spawn(upkeep::register(Arc::clone(&context), background.clone()));
    // It ends first: nobody is to be sent here any more.
    services.spawn(presence::keep(Arc::clone(&context), serving.clone()));
    if let Some(listener) = parts.http {
        services.spawn(http::serve(Arc::clone(&context), listener, background.clone()));
    }
    if let Some(listener) = parts.local {
        services.spawn(local::serve(Arc::clone(&context), listener, background.clone()));
    }
    let ports = [
        (Port::Control, control.clone(), Limits::CONTROL),
        (Port::Enroll, enroll.clone(), Limits::ENROLL),
    ];
    for (port, endpoint, limits) in ports {
        let (context, serving, connections) =
            (Arc::clone(&context), serving.clone(), sessions.clone());
        sessions.spawn(accept(port, context, endpoint, limits, connections, serving));
    }
    tracing::info!(name = %context.name(), "controller is up");
    let fault = tokio::select! {
        () = serving.cancelled() => None,
        // Nobody takes anything from it any more.
        () = removed(&context) => Some(RunError::Removed(context.name())),
        // It ends before it is told to by a panic alone. Nothing that is written would be seen any more,
        // and what the panic left behind is not to be served: a new start reads the store anew.
        _ = &mut follower => Some(RunError::Broken),
    };
    serving.cancel();

    sessions.close();
    if timeout(FAREWELL, sessions.wait()).await.is_err() {
        tracing::warn!(left = sessions.len(), "not every session took its goodbye");
    }
    for endpoint in [&control, &enroll] {
        endpoint.close(CloseCode::Shutdown.into(), b"shutdown");
    }
    sessions.wait().await;
    background.cancel();
    services.close();
    services.wait().await;
    // What was closed has yet to leave the sockets; a peer that is gone must not delay the end.
    let idle = async { tokio::join!(control.wait_idle(), enroll.wait_idle()) };
    let _ = timeout(Duration::from_millis(200), idle).await;
    store.close().await;
    if let Some(fault) = fault {
        return Err(fault);
    }
    tracing::info!("controller has stopped");
    Ok(())
}

/// Returns when this controller's own certificate, or its CA, is not accepted any more, or it is none of the
/// mesh's.
async fn removed(context: &Context) {
    let mut judged = context.mesh.judged();
    while registration::is_member(context) {
        if judged.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn check_identity(mesh: &Mesh, credentials: &LiveCredentials) -> Result<(), RunError> {
    let identity = credentials.identity();
    if !matches!(identity.id.role, Role::Controller { .. }) {
        return Err(RunError::NotController(identity.id.to_string()));
    }
    let store = mesh.read(|state| state.mesh.record.name.clone());
    if store != identity.id.mesh {
        let certificate = identity.id.mesh.to_string();
        return Err(RunError::OtherMesh { store: store.to_string(), certificate });
    }
    Ok(())
}

fn socket<T>(port: &'static str, result: std::io::Result<T>) -> Result<T, RunError> {
    result.map_err(|error| RunError::Socket { port, error })
}

fn control_endpoint(
    context: &Arc<Context>,
    resets: &ResetSecret,
    udp: UdpSocket,
) -> Result<Endpoint, RunError> {
    let observed = Arc::clone(context);
    let verifier = PeerVerifier::new(context.mesh.trust().clone(), Policy::ControlClients)
        .with_observer(Arc::new(move |refusal, claimed| {
            observed.mesh.metrics.refused(refusal.label());
            let peer = claimed.map(ToString::to_string).unwrap_or_default();
            tracing::info!(%peer, reason = %refusal, "refused a certificate");
        }));
    let tls = tls::control_server(&context.credentials, verifier);
    let config = transport::server_config(Arc::new(tls), transport::control_server())?;
    endpoint("control", config, Limits::CONTROL, resets, udp)
}

fn enroll_endpoint(
    context: &Context,
    resets: &ResetSecret,
    udp: UdpSocket,
) -> Result<Endpoint, RunError> {
    let tls = tls::enroll_server(&context.credentials, {
        let issuer = context.issuer.clone();
        move || issuer.current().root().der.clone()
    });
    let config = transport::server_config(Arc::new(tls), transport::enroll_server())?;
    endpoint("enrolment", config, Limits::ENROLL, resets, udp)
}

fn endpoint(
    port: &'static str,
    mut config: quinn::ServerConfig,
    limits: Limits,
    resets: &ResetSecret,
    udp: UdpSocket,
) -> Result<Endpoint, RunError> {
    config
        .max_incoming(limits.handshakes)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(4 * 1024 * 1024)
        .retry_token_lifetime(Duration::from_secs(10));
    let made = Endpoint::new(resets.endpoint(port), Some(config), udp, Arc::new(TokioRuntime));
    socket(port, made)
}

#[derive(Debug, Clone, Copy)]
enum Port {
    Control,
    Enroll,
}

impl Port {
    fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Enroll => "enroll",
        }
    }
}

/// Accepts until stopped. Connections are tasks of the same tracker.
async fn accept(
    port: Port,
    context: Arc<Context>,
    endpoint: Endpoint,
    limits: Limits,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let admission = Admission::new(limits);
    while let Some(Some(incoming)) = stop.run_until_cancelled(endpoint.accept()).await {
        let validated = incoming.remote_address_validated();
        match admission.judge(incoming.remote_address(), validated, Instant::now()) {
            Verdict::Accept(place) => {
                let (context, stop) = (Arc::clone(&context), stop.clone());
                connections.spawn(async move {
                    let mut place = place;
                    if let Some(connection) = shake(&context, port, incoming).await {
                        place.established();
                        serve(port, &context, &connection, &stop).await;
                    }
                });
            }
            Verdict::Retry => {
                context.mesh.metrics.refused("retry");
                // It may always be retried: it is not validated.
                let _ = incoming.retry();
            }
            Verdict::Refuse(reason) => {
                context.mesh.metrics.refused(reason);
                incoming.refuse();
            }
            Verdict::Ignore(reason) => {
                context.mesh.metrics.refused(reason);
                incoming.ignore();
            }
        }
    }
}

async fn shake(context: &Context, port: Port, incoming: Incoming) -> Option<Connection> {
    let address = incoming.remote_address();
    let shaking = async { incoming.accept()?.await };
    match timeout(HANDSHAKE, shaking).await {
        Ok(Ok(connection)) => {
            context.mesh.metrics.connected(port.label());
            Some(connection)
        }
        Ok(Err(error)) => {
            context.mesh.metrics.refused("handshake");
            tracing::debug!(%address, %error, port = port.label(), "handshake failed");
            None
        }
        Err(_) => {
            context.mesh.metrics.refused("slow");
            None
        }
    }
}

async fn serve(
    port: Port,
    context: &Arc<Context>,
    connection: &Connection,
    stop: &CancellationToken,
) {
    match port {
        Port::Enroll => {
            // It is short, and a token may be used up by now: it is let finish.
            enroll::serve(context, connection).await;
        }
        Port::Control => match identity(connection) {
            Some(peer) if matches!(peer.id.role, Role::Edge { .. }) => {
                session::serve(context, connection, peer, stop).await;
            }
            Some(peer) => {
                if matches!(peer.id.role, Role::Controller { .. }) {
                    connection.set_max_concurrent_bi_streams(peers::STREAMS.into());
                }
                let address = connection.remote_address();
                let caller = Caller { name: peer.id.role.name().clone(), peer, address };
                converse(context, connection, &caller, stop).await;
                let code = if stop.is_cancelled() { CloseCode::Shutdown } else { CloseCode::Done };
                connection.close(code.into(), code.to_string().as_bytes());
            }
            None => connection.close(CloseCode::Protocol.into(), b"no client's identity"),
        },
    }
}

fn identity(connection: &Connection) -> Option<PeerIdentity> {
    let any = connection.peer_identity()?;
    let chain = any.downcast_ref::<Vec<cframe_pki::CertificateDer<'static>>>()?;
    cframe_pki::verifier::peer_identity(chain).ok()
}

/// Serves an admin's or another controller's connection until it is closed. Calls run beside each other, and are broken off with
/// it, except that a write which has reached the store is finished there.
async fn converse(
    context: &Arc<Context>,
    connection: &Connection,
    caller: &Caller,
    stop: &CancellationToken,
) {
    let mut calls = tokio::task::JoinSet::new();
    let expiry = context.mesh.expiry(&caller.peer);
    tokio::pin!(expiry);
    loop {
        let (send, receive) = tokio::select! {
            opened = connection.accept_bi() => match opened {
                Ok(stream) => stream,
                Err(_) => break,
            },
            () = stop.cancelled() => break,
            // Its calls have been answered by a valid certificate; the next takes a new connection.
            () = &mut expiry => break,
        };
        while calls.try_join_next().is_some() {}
        let (context, caller) = (Arc::clone(context), caller.clone());
        calls.spawn(async move {
            if let Err(error) = call(&context, &caller, send, receive).await {
                tracing::debug!(caller = %caller.peer.id, %error, "a call was broken off");
            }
        });
    }
    // The peer closed the connection, or this controller stops: calls that are nearly done get a moment.
    let rest = async { while calls.join_next().await.is_some() {} };
    if connection.close_reason().is_none() {
        let _ = timeout(FAREWELL / 2, rest).await;
    }
}

async fn call(
    context: &Arc<Context>,
    caller: &Caller,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
) -> anyhow::Result<()> {
    let mut reader = FrameReader::new(receive, MAX_FRAME);
    let mut writer = FrameWriter::new(send);
    let Some(request) = timeout(REQUEST, reader.next::<AdminRequest>()).await?? else {
        return Ok(());
    };
    let (pieces, mut answer) = mpsc::channel(PIECES);
    let answering = calls::answer(context, caller, request, pieces);
    // It takes the channel along: an answer that nobody takes any more ends with its writer.
    let writing = async move {
        while let Some(result) = answer.recv().await {
            timeout(SLOW, writer.send(&AdminReply { result })).await??;
        }
        writer.finish();
        anyhow::Ok(())
    };
    let ((), written) = tokio::join!(answering, writing);
    written
}

//! A controller as a function: [`run`] gets its sockets, its store and its keys, and serves until it is stopped.
//!
//! Its tasks all end before [`run`] returns:
//! - one follows the store ([`Replica::follow`]);
//! - one accepts connections on each port; each connection has one, and each admin call;
//! - one serves HTTP, one the local socket, if there are such;
//! - those of [`upkeep`].
//!
//! When it stops, it says goodbye to every edge, accepts nothing more, and closes the store.

use std::{
    net::UdpSocket,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::{
    identity::{Label, Role},
    tls::LiveCredentials,
};
use cframe_protocol::session::CloseCode;
use cframe_store::Store;
use quinn::Endpoint;
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit::Retention,
    clock::Clock,
    context::{Context, PeerConnections},
    keys::{
        authorities::Authorities,
        issuer::{Issuer, LiveIssuer},
        reset::ResetSecret,
    },
    mesh::{OpenError, Replica},
    upkeep,
};

mod address;
mod admin;
mod admission;
mod calls;
mod enroll;
pub(crate) mod http;
mod listen;
pub mod local;
mod session;

/// For the goodbyes to all sessions.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(1_200);

/// What a controller runs with.
pub struct Parts {
    /// It must have a mesh.
    pub store: Arc<dyn Store>,
    /// The issuing CA that signs.
    pub issuer: Issuer,
    /// All issuing CAs of this controller, if they are on disk.
    pub authorities: Option<Authorities>,
    /// The controller's own certificate.
    pub credentials: LiveCredentials,
    /// Where renewed credentials are saved, if anywhere.
    pub credentials_dir: Option<PathBuf>,
    /// Ends the connections of an earlier process after a restart.
    pub resets: ResetSecret,
    /// The control port.
    pub control: UdpSocket,
    /// The enrolment port.
    pub enroll: UdpSocket,
    /// Serves `/metrics`, `/healthz` and `/readyz`, if given.
    pub http: Option<TcpListener>,
    /// Serves the commands on the controller's own host, if given.
    pub local: Option<UnixListener>,
    pub clock: Clock,
    /// Of the audit log.
    pub audit: Retention,
}

/// Why a controller cannot run.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the store is of mesh {store} and the controller's certificate of mesh {certificate}")]
    OtherMesh { store: String, certificate: String },
    #[error("{0} is not a controller's certificate")]
    NotController(String),
    #[error(
        "controller {0} was removed from the mesh, or its certificate or CA revoked: add it again with \
         `cframe-controller init --join`, if the CA was revoked with an empty --data-dir"
    )]
    Removed(Label),
    #[error("the {port} port cannot be used: {error}")]
    Socket { port: &'static str, error: std::io::Error },
    #[error("following the store ended by a bug of this program (see the log); start it again")]
    Broken,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Runs a controller until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), RunError> {
    let Parts { store, issuer, credentials, resets, control, enroll, clock, .. } = parts;
    let name = credentials.identity().id.role.name().clone();
    let replica = Replica::open(Arc::clone(&store), clock, name, parts.audit).await?;
    check_identity(&replica, &credentials)?;
    let enroll_port = listen::port(&enroll)?;
    // Sessions end first: until then the store is followed and takes writes.
    let (serving, background) = (stop.child_token(), CancellationToken::new());
    let (started, started_at) = (Instant::now(), replica.now());
    let context = Arc::new(Context {
        replica,
        issuer: LiveIssuer::new(issuer),
        authorities: parts.authorities,
        credentials,
        credentials_dir: parts.credentials_dir,
        renewing: tokio::sync::Mutex::default(),
        enroll_port,
        started,
        started_at,
        peers: PeerConnections::default(),
        stop: serving.clone(),
    });
    if !context.is_member() {
        return Err(RunError::Removed(context.name()));
    }
    let control = listen::control_endpoint(&context, &resets, control)?;
    let enroll = listen::enroll_endpoint(&context, &resets, enroll)?;
    let (sessions, services) = (TaskTracker::new(), TaskTracker::new());
    let mut follower = {
        let (context, background) = (Arc::clone(&context), background.clone());
        services.spawn(async move { context.replica.follow(background).await })
    };
    spawn_upkeep(&context, &services, &serving, &background);
    if let Some(listener) = parts.http {
        services.spawn(http::serve(Arc::clone(&context), listener, background.clone()));
    }
    if let Some(listener) = parts.local {
        services.spawn(local::serve(Arc::clone(&context), listener, background.clone()));
    }
    for (port, endpoint) in [(listen::Port::Control, &control), (listen::Port::Enroll, &enroll)] {
        let (context, connections) = (Arc::clone(&context), sessions.clone());
        let accept = listen::accept(port, context, endpoint.clone(), connections, serving.clone());
        sessions.spawn(accept);
    }
    tracing::info!(name = %context.name(), "controller is up");
    let error = tokio::select! {
        () = serving.cancelled() => None,
        () = removed(&context) => Some(RunError::Removed(context.name())),
        // Only a panic ends it. What the panic left in memory is not served: the next start reads the store again.
        _ = &mut follower => Some(RunError::Broken),
    };
    serving.cancel();
    end_sessions(&sessions, [&control, &enroll]).await;
    background.cancel();
    services.close();
    services.wait().await;
    // The last packets have to leave the sockets; a peer that is gone must not delay the end.
    let idle = async { tokio::join!(control.wait_idle(), enroll.wait_idle()) };
    let _ = timeout(Duration::from_millis(200), idle).await;
    store.close().await;
    if let Some(error) = error {
        return Err(error);
    }
    tracing::info!("controller has stopped");
    Ok(())
}

fn spawn_upkeep(
    context: &Arc<Context>,
    services: &TaskTracker,
    serving: &CancellationToken,
    background: &CancellationToken,
) {
    let (context, stop) = (|| Arc::clone(context), || background.clone());
    services.spawn(upkeep::certificate::renew_own(context(), stop()));
    services.spawn(upkeep::expiry::watch(context(), stop()));
    services.spawn(upkeep::sweep::sweep(context(), stop()));
    services.spawn(upkeep::membership::record(context(), stop()));
    services.spawn(upkeep::journal::write_records(context(), stop()));
    services.spawn(upkeep::trim::trim_log(context(), stop()));
    services.spawn(upkeep::probe::probe_writes(context(), stop()));
    services.spawn(upkeep::registration::register(context(), stop()));
    // It ends with the sessions: no edge should connect any more.
    services.spawn(upkeep::presence::advertise(context(), serving.clone()));
}

async fn end_sessions(sessions: &TaskTracker, endpoints: [&Endpoint; 2]) {
    sessions.close();
    if timeout(GOODBYE_TIMEOUT, sessions.wait()).await.is_err() {
        tracing::warn!(left = sessions.len(), "not every session took its goodbye");
    }
    for endpoint in endpoints {
        endpoint.close(CloseCode::Shutdown.into(), b"shutdown");
    }
    sessions.wait().await;
}

/// Returns when this controller is not a member of the mesh any more.
async fn removed(context: &Context) {
    let mut changed = context.replica.trust_changed();
    while context.is_member() {
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn check_identity(replica: &Replica, credentials: &LiveCredentials) -> Result<(), RunError> {
    let identity = credentials.identity();
    if !matches!(identity.id.role, Role::Controller { .. }) {
        return Err(RunError::NotController(identity.id.to_string()));
    }
    let store = replica.read(|state| state.mesh.record.name.clone());
    if store != identity.id.mesh {
        let certificate = identity.id.mesh.to_string();
        return Err(RunError::OtherMesh { store: store.to_string(), certificate });
    }
    Ok(())
}

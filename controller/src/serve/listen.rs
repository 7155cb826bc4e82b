//! The two UDP ports: endpoints, handshakes, and what each connection is.

use std::{
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::{
    CertificateDer,
    identity::Role,
    tls,
    verifier::{PeerIdentity, PeerVerifier, Policy, peer_identity},
};
use cframe_protocol::session::{CloseCode, transport};
use quinn::{Connection, Endpoint, Incoming, TokioRuntime};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    RunError,
    address::canonical,
    admin,
    admission::{Admission, Decision, Limits},
    calls::Caller,
    enroll, session,
};
use crate::{context::Context, keys::reset::ResetSecret, peers};

/// From the first packet to the finished handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
pub(super) enum Port {
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

    fn limits(self) -> Limits {
        match self {
            Self::Control => Limits::CONTROL,
            Self::Enroll => Limits::ENROLL,
        }
    }
}

/// The number of the enrolment port.
pub(super) fn port(enroll: &UdpSocket) -> Result<u16, RunError> {
    Ok(enroll.local_addr().map_err(|error| RunError::Socket { port: "enrolment", error })?.port())
}

pub(super) fn control_endpoint(
    context: &Arc<Context>,
    resets: &ResetSecret,
    udp: UdpSocket,
) -> Result<Endpoint, RunError> {
    let observer = Arc::clone(context);
    let verifier = PeerVerifier::new(context.replica.trust().clone(), Policy::ControlClients)
        .with_observer(Arc::new(move |refusal, claimed| {
            observer.replica.metrics.refused(refusal.label());
            let peer = claimed.map(ToString::to_string).unwrap_or_default();
            tracing::info!(%peer, reason = %refusal, "refused a certificate");
        }));
    let tls = tls::control_server(&context.credentials, verifier);
    let config = transport::server_config(Arc::new(tls), transport::control_server())?;
    endpoint("control", config, Port::Control.limits(), resets, udp)
}

pub(super) fn enroll_endpoint(
    context: &Context,
    resets: &ResetSecret,
    udp: UdpSocket,
) -> Result<Endpoint, RunError> {
    let tls = tls::enroll_server(&context.credentials, {
        let issuer = context.issuer.clone();
        move || issuer.current().root().der.clone()
    });
    let config = transport::server_config(Arc::new(tls), transport::enroll_server())?;
    endpoint("enrolment", config, Port::Enroll.limits(), resets, udp)
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
    Endpoint::new(resets.endpoint(port), Some(config), udp, Arc::new(TokioRuntime))
        .map_err(|error| RunError::Socket { port, error })
}

/// Accepts connections until stopped. They are tasks of `connections`.
pub(super) async fn accept(
    port: Port,
    context: Arc<Context>,
    endpoint: Endpoint,
    connections: TaskTracker,
    stop: CancellationToken,
) {
    let admission = Admission::new(port.limits());
    while let Some(Some(incoming)) = stop.run_until_cancelled(endpoint.accept()).await {
        let validated = incoming.remote_address_validated();
        match admission.judge(incoming.remote_address(), validated, Instant::now()) {
            Decision::Accept(mut slot) => {
                let (context, stop) = (Arc::clone(&context), stop.clone());
                connections.spawn(async move {
                    if let Some(connection) = handshake(&context, port, incoming).await {
                        slot.established();
                        serve(port, &context, &connection, &stop).await;
                    }
                });
            }
            Decision::Retry => {
                context.replica.metrics.refused("retry");
                // This fails only for a validated address.
                let _ = incoming.retry();
            }
            Decision::Refuse(reason) => {
                context.replica.metrics.refused(reason);
                incoming.refuse();
            }
            Decision::Ignore(reason) => {
                context.replica.metrics.refused(reason);
                incoming.ignore();
            }
        }
    }
}

async fn handshake(context: &Context, port: Port, incoming: Incoming) -> Option<Connection> {
    let address = canonical(incoming.remote_address());
    let handshake = async { incoming.accept()?.await };
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => {
            context.replica.metrics.connected(port.label());
            Some(connection)
        }
        Ok(Err(error)) => {
            context.replica.metrics.refused("handshake");
            tracing::debug!(%address, %error, port = port.label(), "handshake failed");
            None
        }
        Err(_) => {
            context.replica.metrics.refused("slow");
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
        // It is not stopped: it is short, and the token may be used up already.
        Port::Enroll => enroll::serve(context, connection).await,
        Port::Control => match client_identity(connection) {
            Some(peer) if matches!(peer.id.role, Role::Edge { .. }) => {
                session::serve(context, connection, peer, stop).await;
            }
            Some(peer) => {
                if matches!(peer.id.role, Role::Controller { .. }) {
                    connection.set_max_concurrent_bi_streams(peers::MAX_STREAMS.into());
                }
                let address = canonical(connection.remote_address());
                let caller = Caller { name: peer.id.role.name().clone(), peer, address };
                admin::serve(context, connection, &caller, stop).await;
            }
            None => connection.close(CloseCode::Protocol.into(), b"no client identity"),
        },
    }
}

fn client_identity(connection: &Connection) -> Option<PeerIdentity> {
    let any = connection.peer_identity()?;
    let chain = any.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    peer_identity(chain).ok()
}

//! Handshakes between both ends of every configuration.

mod credentials;
mod enrolment;
mod handshakes;
mod resumption;

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use super::{Credentials, LiveCredentials, link_client, link_server};
use crate::{
    CertificateDer,
    testing::{World, edges, pinned_clock},
};

const DIALER: &str = "spiffe://m/ns/prod/edge/dialer";
const ACCEPTOR: &str = "spiffe://m/ns/prod/edge/acceptor";

fn live(credentials: Credentials) -> LiveCredentials {
    LiveCredentials::new(credentials).unwrap()
}

/// The two ends of a link.
fn link(world: &World) -> (ClientConfig, ServerConfig) {
    let verifier = world.verifier(edges("prod"));
    (
        link_client(&live(world.credentials(DIALER)), verifier.clone()),
        link_server(&live(world.credentials(ACCEPTOR)), verifier),
    )
}

/// A root that is never rotated.
fn constant(
    root: &CertificateDer<'static>,
) -> impl Fn() -> CertificateDer<'static> + Send + Sync + 'static {
    let root = root.clone();
    move || root.clone()
}

fn linked(world: &World) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let (client, server) = link(world);
    pinned_clock(client, server)
}

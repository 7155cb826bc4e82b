//! The core and its thread, made from what is on disk and in the configuration.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use cframe_mesh::{Crypto, Mesh, Offload};
use cframe_pki::{
    identity::Label,
    tls::{self, LiveCredentials},
    verifier::{PeerVerifier, Trust},
};
use cframe_protocol::v1::Desired;
use tokio::sync::mpsc;

use super::stored::Stored;
use crate::{
    config::Config,
    host::{
        driver::{Driver, DriverEvent},
        socket::Socket,
        tun::Tun,
    },
    process::{desired::congestion, links::Links},
    state,
};

pub(super) struct Core<'a> {
    pub(super) config: &'a Config,
    pub(super) stored: &'a Stored,
    pub(super) credentials: &'a LiveCredentials,
    /// For certificates of peers.
    pub(super) verifier: &'a PeerVerifier,
    /// Random, and different at every start.
    pub(super) boot_id: [u8; 16],
}

impl Core<'_> {
    /// Starts the data plane's thread. It does not read the TUN before the first
    /// [`Driver::set_tun`].
    pub(super) fn start(
        &self,
        own: &Label,
        socket: Socket,
        tun: &Tun,
        trust: Trust,
        links: &Links,
    ) -> Result<(Driver, mpsc::Receiver<DriverEvent>)> {
        let mut mesh = self.build(tun)?;
        if let Some(snapshot) = &self.stored.snapshot {
            add_peers(&mut mesh, own, &snapshot.desired, links);
        }
        Driver::start(mesh, socket, trust).context("cannot start the data plane")
    }

    fn build(&self, tun: &Tun) -> Result<Mesh> {
        let settings = self.stored.settings();
        let mesh = cframe_mesh::Config {
            id: self.stored.identity.id.clone(),
            boot: self.boot_id,
            keys: self.stored.state.endpoint_keys()?,
            crypto: Crypto::tls(
                tls::link_client(self.credentials, self.verifier.clone()),
                tls::link_server(self.credentials, self.verifier.clone()),
            )?,
            tun_mtu: settings.tun_mtu,
            underlay_mtu: self.config.underlay_mtu,
            congestion: congestion(settings.congestion),
            offload: Offload { udp: tun.udp_offload },
            seed: state::random()?,
        };
        let unix =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Ok(Mesh::new(mesh, Instant::now(), unix)?)
    }
}

/// Adds peers and prefixes before the first datagram is read: otherwise a peer that dials at once
/// would be unknown. Names are not resolved yet.
fn add_peers(mesh: &mut Mesh, own: &Label, desired: &Desired, links: &Links) {
    let now = Instant::now();
    for (net, owner) in &desired.prefixes {
        mesh.set_prefix(*net, owner);
    }
    for (name, state) in desired.edges.iter().filter(|(name, _)| *name != own) {
        mesh.set_peer(now, name, links.dial_addresses(name, &state.endpoints));
    }
}

//! The core, made from what is on disk and in the configuration.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use cframe_mesh::{Crypto, Mesh, Offload};
use cframe_pki::{
    identity::Label,
    tls::{self, LiveCredentials},
    verifier::PeerVerifier,
};

use cframe_protocol::reserved::SERVICE_ADDRESSES;

use super::stored::Stored;
use crate::{
    config::Config,
    host::tun::Tun,
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
    /// A core that knows the peers and prefixes of the snapshot: otherwise a peer that dials at once would
    /// be unknown.
    pub(super) fn build(&self, tun: &Tun, own: &Label, links: &Links) -> Result<Mesh> {
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
            refused: SERVICE_ADDRESSES.iter().map(|service| service.net).collect(),
            seed: state::random()?,
        };
        let unix =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = Instant::now();
        let mut mesh = Mesh::new(mesh, now, unix)?;
        for desired in self.stored.snapshot.iter().map(|snapshot| &snapshot.desired) {
            for (net, owner) in &desired.prefixes {
                mesh.set_prefix(*net, owner);
            }
            for (name, state) in desired.edges.iter().filter(|(name, _)| *name != own) {
                mesh.set_peer(now, name, links.dial_addresses(name, &state.endpoints));
            }
        }
        Ok(mesh)
    }
}

//! Cores with certificates, as in a deployment.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use cframe_mesh::{Config, Congestion, Crypto, EndpointKeys, Mesh, Offload};
use cframe_pki::{
    bundle::{DenyList, TrustBundle},
    identity::{Label, SpiffeId},
    issue::{IssuingCa, RootCa, VerifiedCsr},
    key::PrivateKey,
    tls::{self, Credentials, LiveCredentials},
    unix_now,
    verifier::{PeerVerifier, Policy, Trust},
};

pub(crate) const TUN_MTU: u16 = 1400;

/// Builds edges of one namespace, each with a prefix and an address.
pub(crate) struct EdgeBuilder {
    root: RootCa,
    ca: IssuingCa,
    now: Instant,
}

/// The name of edge `index`.
pub(crate) fn name(index: u16) -> Label {
    format!("e{index:05}").parse().unwrap()
}

/// The underlay address of edge `index`.
pub(crate) fn address(index: u16) -> SocketAddr {
    let [high, low] = index.to_be_bytes();
    SocketAddr::new(IpAddr::from([192, 0, high, low]), 58423)
}

/// A host in the prefix 10.x.y.0/24 of edge `index`.
pub(crate) fn host(index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    [10, high, low, 1].into()
}

/// Makes edge `other` a peer; with `dials`, `mesh` has its address.
pub(crate) fn add_peer(mesh: &mut Mesh, now: Instant, other: u16, dials: bool) {
    let name = name(other);
    mesh.set_prefix(prefix(other), &name);
    mesh.set_peer(now, &name, if dials { vec![address(other)] } else { Vec::new() });
}

fn prefix(index: u16) -> ipnet::IpNet {
    ipnet::Ipv4Net::new(host(index), 24).unwrap().trunc().into()
}

impl EdgeBuilder {
    pub(crate) fn new(now: Instant) -> Self {
        let root = RootCa::generate(&"bench".parse().unwrap(), unix_now()).unwrap();
        let ca = root.issuing_ca(unix_now()).unwrap();
        Self { root, ca, now }
    }

    /// The configuration of edge `index`. Its trust is not shared, as in separate processes.
    pub(crate) fn config(&self, index: u16) -> Config {
        let id = SpiffeId::edge("bench".parse().unwrap(), "prod".parse().unwrap(), name(index));
        let key = PrivateKey::generate().unwrap();
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let leaf = self.ca.issue(&csr, &id, Duration::from_secs(86_400), unix_now()).unwrap();
        let chain = vec![leaf.der, self.ca.certificate().clone()];
        let roots = vec![self.root.certificate().clone()];
        let bundle = TrustBundle { roots, revoked_issuers: Default::default() };
        let trust = Trust::new("bench".parse().unwrap(), bundle, DenyList::default()).unwrap();
        let policy = Policy::Edges { namespace: "prod".parse().unwrap(), not_self: None };
        let verifier = PeerVerifier::new(trust, policy);
        let credentials = LiveCredentials::new(Credentials { chain, key }).unwrap();
        let [high, low] = index.to_be_bytes();
        let seed = [high, low].repeat(16).try_into().unwrap();
        Config {
            id,
            boot: [low; 16],
            keys: EndpointKeys { reset: [7; 64], connection_id: 42, retry: [9; 32] },
            crypto: Crypto::tls(
                tls::link_client(&credentials, verifier.clone()),
                tls::link_server(&credentials, verifier),
            )
            .unwrap(),
            tun_mtu: TUN_MTU,
            underlay_mtu: 1500,
            congestion: Congestion::Transparent,
            refused: Vec::new(),
            offload: Offload { udp: true },
            seed,
        }
    }

    /// The core of edge `index` with its own prefix.
    pub(crate) fn mesh(&self, index: u16, config: Config) -> Mesh {
        let mut mesh = Mesh::new(config, self.now, Duration::from_secs(unix_now())).unwrap();
        mesh.set_prefix(prefix(index), &name(index));
        mesh
    }
}

//! One edge of the simulation: its core, and what it knows of the desired state.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_mesh::{Config, Congestion, Crypto, EndpointKeys, Mesh, Offload};
use cframe_pki::{
    tls,
    verifier::{PeerVerifier, Policy, Trust},
};

use crate::{
    desired::{Desired, Item},
    identities::Identities,
    null_crypto::NullCrypto,
    setup::{Protection, Setup},
};

pub(crate) struct Edge {
    pub(crate) index: usize,
    pub(crate) address: SocketAddr,
    /// Whether other edges know its address.
    pub(crate) listens: bool,
    pub(crate) mesh: Option<Mesh>,
    /// What it knows of the desired state. It survives a restart.
    pub(crate) known: Desired,
    /// The time of its timer.
    pub(crate) armed: Option<Duration>,
    /// By peer: how often the current link has changed.
    pub(crate) links: Vec<u32>,
    trust: Trust,
    starts: u8,
}

impl Edge {
    pub(crate) fn new(identities: &Identities, index: usize, listens: bool) -> Self {
        Self {
            index,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            listens,
            mesh: None,
            known: Desired::default(),
            armed: None,
            links: Vec::new(),
            trust: identities.authority.trust(),
            starts: 0,
        }
    }

    /// Starts it with what it knows; `elapsed` is the virtual time at `now`.
    pub(crate) fn start(&mut self, setup: &Setup, (now, elapsed): (Instant, Duration)) {
        let Setup { identities, protection, seed, .. } = setup;
        self.starts += 1;
        let own = &identities.edges[self.index];
        let mut seeds = [self.starts; 32];
        seeds[..8].copy_from_slice(&seed.to_be_bytes());
        seeds[8] = self.index as u8;
        let key = self.index as u8;
        let config = Config {
            id: own.id.clone(),
            boot: [self.starts; 16],
            keys: EndpointKeys {
                reset: [key; 64],
                connection_id: 1000 + u64::from(key),
                retry: [key; 32],
            },
            crypto: self.crypto(identities, *protection),
            tun_mtu: 1500,
            underlay_mtu: 1500,
            congestion: Congestion::Transparent,
            refused: Vec::new(),
            offload: Offload { udp: true },
            seed: seeds,
        };
        let unix = Duration::from_secs(identities.epoch) + elapsed;
        self.mesh = Some(Mesh::new(config, now, unix).unwrap());
        // Prefixes and peers, in the order in which an edge learns them from its snapshot.
        for item in self.known.items(&Desired::default()) {
            self.apply(identities, now, item);
        }
    }

    /// Gives the core one thing that the edge knows.
    pub(crate) fn apply(&mut self, identities: &Identities, now: Instant, item: Item) {
        if let Item::Denied(_) = item {
            let deny = identities.deny_list(self.known.denied);
            self.trust.replace(self.trust.bundle(), deny).unwrap();
        }
        let Some(mesh) = &mut self.mesh else { return };
        let name = |edge: usize| &identities.edges[edge].name;
        match item {
            Item::Peer(peer) => match &self.known.peers[peer] {
                Some(addresses) => mesh.set_peer(now, name(peer), addresses.clone()),
                None => mesh.remove_peer(now, name(peer)),
            },
            Item::Route(prefix) => match self.known.routes.get(&prefix) {
                Some(&owner) => mesh.set_prefix(prefix, name(owner)),
                None => mesh.remove_prefix(&prefix),
            },
            Item::Denied(_) => {
                let trust = &self.trust;
                mesh.recheck(now, &mut |peer| trust.denial(peer).is_ok());
            }
        }
    }

    fn crypto(&self, identities: &Arc<Identities>, protection: Protection) -> Crypto {
        let own = &identities.edges[self.index];
        let namespace = own.id.role.namespace().unwrap().clone();
        let policy = Policy::Edges { namespace, not_self: Some(own.name.clone()) };
        match protection {
            Protection::Tls => {
                let verifier = PeerVerifier::new(self.trust.clone(), policy);
                let client = tls::link_client(&own.credentials, verifier.clone());
                Crypto::tls(client, tls::link_server(&own.credentials, verifier)).unwrap()
            }
            Protection::Null => {
                let trust = self.trust.clone();
                let known = identities.clone();
                let null = Arc::new(NullCrypto {
                    chain: own.chain.clone(),
                    judge: Box::new(move |chain| known.judge(&policy, &trust, chain)),
                });
                Crypto { client: null.clone(), server: null }
            }
        }
    }
}

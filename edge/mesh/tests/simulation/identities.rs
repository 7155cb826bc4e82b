//! The identities of edges, issued once for all runs.

use std::time::Duration;

use cframe_pki::{
    CertificateDer,
    bundle::{DenyEntry, DenyList},
    identity::{Label, PeerIdentity, SpiffeId},
    tls::LiveCredentials,
    unix_now,
    verifier::{Policy, Refusal, Trust},
};

use crate::{certificates::Authority, desired::Edges};

/// The identities of the most edges that a run may have, issued once for all runs.
pub(crate) struct Identities {
    pub(crate) edges: Vec<Identity>,
    pub(crate) authority: Authority,
    /// The wall clock at the start of every run, in seconds since 1970.
    pub(crate) epoch: u64,
}

pub(crate) struct Identity {
    pub(crate) name: Label,
    pub(crate) id: SpiffeId,
    peer: PeerIdentity,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) credentials: LiveCredentials,
}

impl Identities {
    pub(crate) fn new(count: usize) -> Self {
        let authority = Authority::new();
        let edges = (0..count).map(|edge| Identity::new(&authority, edge)).collect();
        Self { edges, authority, epoch: unix_now() }
    }

    /// The edge with this name.
    pub(crate) fn index(&self, name: &Label) -> usize {
        self.edges.iter().position(|edge| edge.name == *name).unwrap()
    }

    pub(crate) fn deny_list(&self, denied: Edges) -> DenyList {
        denied.iter().map(|edge| DenyEntry::from(&self.edges[edge].peer)).collect()
    }

    /// The decision of `PeerVerifier::judge` for chains that are known to be valid, without
    /// checking a signature.
    pub(crate) fn judge(
        &self,
        policy: &Policy,
        trust: &Trust,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Refusal> {
        let Some(edge) = self.edges.iter().find(|edge| edge.chain == chain) else {
            return Err(Refusal::NotTrusted("a chain that was not issued here".to_owned()));
        };
        policy.admit(&edge.peer.id)?;
        trust.denial(&edge.peer)
    }
}

impl Identity {
    fn new(authority: &Authority, edge: usize) -> Self {
        let name = format!("edge-{edge:02}");
        let (id, credentials) = authority.issue("prod", &name, Duration::from_secs(86_400));
        Self {
            name: name.parse().unwrap(),
            id,
            peer: credentials.identity().unwrap(),
            chain: credentials.chain.clone(),
            credentials: LiveCredentials::new(credentials).unwrap(),
        }
    }
}

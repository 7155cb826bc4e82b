//! The state on disk and the certificate of a later join, with roots that overlap in part.

use std::sync::Arc;

use cframe_pki::{
    bundle::TrustBundle,
    identity::{MeshName, SpiffeId},
    issue::{LEAF_LIFETIME, RootCa, VerifiedCsr},
    key::PrivateKey,
    unix_now,
};
use cframe_protocol::v1::{Desired, Version};

use super::*;

struct Roots {
    mesh: MeshName,
    roots: [RootCa; 3],
}

impl Roots {
    fn new() -> Self {
        let mesh: MeshName = "mesh.example".parse().unwrap();
        let root = || RootCa::generate(&mesh, unix_now()).unwrap();
        let roots = [root(), root(), root()];
        Self { mesh, roots }
    }

    fn bundle(&self, of: &[usize]) -> TrustBundle {
        let roots = of.iter().map(|index| self.roots[*index].certificate().clone()).collect();
        TrustBundle { roots, ..TrustBundle::default() }
    }

    fn leaf(&self, root: usize, id: &SpiffeId) -> Credentials {
        let now = unix_now();
        let ca = self.roots[root].issuing_ca(now).unwrap();
        let key = PrivateKey::generate().unwrap();
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let leaf = ca.issue(&csr, id, LEAF_LIFETIME, now).unwrap();
        Credentials { chain: vec![leaf.der, ca.certificate().clone()], key }
    }

    /// Whether an edge starts from its state, and under which roots it accepts a controller.
    fn start(&self, kept: &[usize], joined: usize, enrolled: &[usize]) -> (bool, Vec<usize>) {
        let home = tempfile::tempdir().unwrap();
        let state = State::open(&home.path().join("edge")).unwrap();
        let id = SpiffeId::edge(self.mesh.clone(), "prod".parse().unwrap(), "idc".parse().unwrap());
        let desired = Desired {
            version: Version { epoch: 1, mesh: 1, namespace: 1 },
            trust: self.bundle(kept),
            ..Desired::default()
        };
        let desired = Arc::new(desired);
        let kept = Snapshot { id: id.clone(), saved: 1, desired, denied: DenyList::default() };
        snapshot::save(&state.dir.join(snapshot::FILE), &kept).unwrap();
        let enrolment = Enrolment {
            trust: self.bundle(enrolled),
            controllers: Vec::new(),
            listen_port: 58423,
            settings: Settings::default(),
        };
        let credentials = self.leaf(joined, &id);
        let identity = credentials.identity().unwrap();
        let snapshot = load_snapshot(&state.dir, &credentials, &identity);
        let stored = Stored { state, credentials, identity, enrolment, snapshot };
        let trust = stored.trust().unwrap();
        let verifier = PeerVerifier::new(trust, Policy::Controller);
        let controller = SpiffeId::controller(self.mesh.clone(), "ctl".parse().unwrap());
        let taken = (0..self.roots.len()).filter(|root| {
            let chain = self.leaf(*root, &controller).chain;
            verifier.judge(&chain, PeerSide::Server, unix_now()).is_ok()
        });
        (stored.snapshot.is_some(), taken.collect())
    }
}

#[test]
fn a_state_that_knows_the_root_of_our_certificate_is_started_from() {
    let roots = Roots::new();
    assert_eq!(roots.start(&[0, 1], 0, &[0, 1]), (true, vec![0, 1]));
    assert_eq!(roots.start(&[0, 1], 1, &[1, 2]), (true, vec![0, 1]), "in the middle of a rotation");
}

#[test]
fn a_state_with_another_root_than_our_certificate_is_not_used_though_the_bundles_overlap() {
    let roots = Roots::new();
    assert_eq!(roots.start(&[0, 1], 2, &[1, 2]), (false, vec![1, 2]));
    assert_eq!(roots.start(&[0], 2, &[2]), (false, vec![2]), "nor if they don't overlap");
}

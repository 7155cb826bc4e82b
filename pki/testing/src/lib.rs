//! Certificates for tests: a mesh's root CA, its issuing CA, and leaves for any identity.
//!
//! A crate and not a feature of `cframe-pki`, so that tests use the same build of it as the programs.
//! Everything panics where a test could not go on.

#![allow(clippy::unwrap_used, reason = "only tests use this")]

use std::time::Duration;

use cframe_pki::{
    CertificateDer,
    bundle::{DenyEntry, DenyList, TrustBundle},
    identity::{MeshName, PeerIdentity, SpiffeId},
    issue::{IssuingCa, LEAF_LIFETIME, RootCa, VerifiedCsr},
    key::PrivateKey,
    tls::Credentials,
    unix_now,
    verifier::{PeerVerifier, Policy, Trust},
};

/// The CAs of one mesh, with new keys.
pub struct TestPki {
    pub root: RootCa,
    pub ca: IssuingCa,
    /// Trusts `root`; shared by all verifiers of [`verifier`](Self::verifier).
    pub trust: Trust,
    now: u64,
}

impl TestPki {
    /// Certificates are valid from an hour before the system's time.
    pub fn new(mesh: &str) -> Self {
        Self::at(mesh, unix_now())
    }

    /// Certificates are valid from an hour before `now` (Unix seconds).
    pub fn at(mesh: &str, now: u64) -> Self {
        let mesh: MeshName = mesh.parse().unwrap();
        let root = RootCa::generate(&mesh, now).unwrap();
        let ca = root.issuing_ca(now).unwrap();
        let trust = Trust::new(mesh, bundle(&[&root]), DenyList::default()).unwrap();
        Self { root, ca, trust, now }
    }

    pub fn mesh(&self) -> &MeshName {
        self.root.mesh()
    }

    /// The bundle with the one root.
    pub fn bundle(&self) -> TrustBundle {
        bundle(&[&self.root])
    }

    /// A `Trust` that shares nothing with `trust`, for tests in which each participant has its own.
    pub fn separate_trust(&self) -> Trust {
        Trust::new(self.mesh().clone(), self.bundle(), DenyList::default()).unwrap()
    }

    pub fn verifier(&self, policy: Policy) -> PeerVerifier {
        PeerVerifier::new(self.trust.clone(), policy)
    }

    /// A new key with a certificate for a SPIFFE ID of this mesh, valid for [`LEAF_LIFETIME`].
    pub fn credentials(&self, id: &str) -> Credentials {
        self.issue(&id.parse().unwrap(), LEAF_LIFETIME)
    }

    pub fn issue(&self, id: &SpiffeId, lifetime: Duration) -> Credentials {
        issue(&self.ca, id, lifetime, self.now)
    }

    /// The chain for a DER-encoded signing request: the leaf, then the issuing CA.
    pub fn sign(&self, csr: &[u8], id: &SpiffeId) -> Vec<CertificateDer<'static>> {
        sign(&self.ca, csr, id, LEAF_LIFETIME, self.now)
    }

    /// Puts a certificate on the deny-list of `trust`, alone.
    pub fn deny(&self, peer: &PeerIdentity) {
        let denied = [DenyEntry::from(peer)].into_iter().collect();
        self.trust.replace(self.trust.bundle(), denied).unwrap();
    }

    /// Replaces root and issuing CA by new ones; `trust` has the new root before the old one.
    pub fn rotate_root(&mut self) {
        let root = RootCa::generate(self.mesh(), self.now).unwrap();
        self.ca = root.issuing_ca(self.now).unwrap();
        self.trust.replace(bundle(&[&root, &self.root]), DenyList::default()).unwrap();
        self.root = root;
    }
}

/// A new key with a certificate by `ca`, made at `now` (Unix seconds).
pub fn issue(ca: &IssuingCa, id: &SpiffeId, lifetime: Duration, now: u64) -> Credentials {
    let key = PrivateKey::generate().unwrap();
    Credentials { chain: sign(ca, &key.csr().unwrap(), id, lifetime, now), key }
}

/// A bundle that revokes no issuing CA.
pub fn bundle(roots: &[&RootCa]) -> TrustBundle {
    let roots = roots.iter().map(|root| root.certificate().clone()).collect();
    TrustBundle { roots, ..TrustBundle::default() }
}

fn sign(
    ca: &IssuingCa,
    csr: &[u8],
    id: &SpiffeId,
    lifetime: Duration,
    now: u64,
) -> Vec<CertificateDer<'static>> {
    let csr = VerifiedCsr::from_der(csr).unwrap();
    let leaf = ca.issue(&csr, id, lifetime, now).unwrap();
    vec![leaf.der, ca.certificate().clone()]
}

//! A mesh with its CAs, and TLS configurations of its participants.

use std::sync::Arc;

use cframe_pki::{
    CertificateDer, Fingerprint,
    bundle::{DenyEntry, DenyList, TrustBundle},
    issue::{IssuingCa, LEAF_LIFETIME, RootCa, VerifiedCsr},
    key::PrivateKey,
    tls::{self, Credentials, LiveCredentials},
    unix_now,
    verifier::{PeerVerifier, Policy, Trust},
};

pub(crate) struct World {
    root: RootCa,
    ca: IssuingCa,
    trust: Trust,
}

impl World {
    pub(crate) fn new(mesh: &str) -> Self {
        let mesh = mesh.parse().unwrap();
        let root = RootCa::generate(&mesh, unix_now()).unwrap();
        let ca = root.issuing_ca(unix_now()).unwrap();
        let bundle =
            TrustBundle { roots: vec![root.certificate().clone()], ..TrustBundle::default() };
        let trust = Trust::new(mesh, bundle, DenyList::default()).unwrap();
        Self { root, ca, trust }
    }

    pub(crate) fn pin(&self) -> Fingerprint {
        self.root.spki_sha256()
    }

    /// Credentials of `spiffe://<mesh>/<path>`.
    pub(crate) fn credentials(&self, path: &str) -> LiveCredentials {
        let key = PrivateKey::generate().unwrap();
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let id = format!("spiffe://{}/{path}", self.root.mesh()).parse().unwrap();
        let leaf = self.ca.issue(&csr, &id, LEAF_LIFETIME, unix_now()).unwrap();
        let chain = vec![leaf.der, self.ca.certificate().clone()];
        LiveCredentials::new(Credentials { chain, key }).unwrap()
    }

    pub(crate) fn deny(&self, credentials: &LiveCredentials) {
        let denied = DenyEntry::from(&*credentials.identity());
        self.trust.replace(self.trust.bundle(), [denied].into_iter().collect()).unwrap();
    }

    /// Puts another root in the place of the one there is; its controllers are below the new one.
    pub(crate) fn rotate(&mut self) -> Trust {
        let root = RootCa::generate(self.root.mesh(), unix_now()).unwrap();
        self.ca = root.issuing_ca(unix_now()).unwrap();
        let roots = vec![root.certificate().clone(), self.root.certificate().clone()];
        self.root = root;
        self.trust_roots(&roots);
        self.trust.clone()
    }

    /// Drops all roots but the newest.
    pub(crate) fn drop_old_root(&self) {
        self.trust_roots(&[self.root.certificate().clone()]);
    }

    fn trust_roots(&self, roots: &[CertificateDer<'static>]) {
        let bundle = TrustBundle { roots: roots.to_vec(), ..TrustBundle::default() };
        self.trust.replace(bundle, DenyList::default()).unwrap();
    }

    pub(crate) fn control_server(&self) -> Arc<rustls::ServerConfig> {
        self.control_server_as("controller/c1")
    }

    pub(crate) fn control_server_as(&self, path: &str) -> Arc<rustls::ServerConfig> {
        let verifier = PeerVerifier::new(self.trust.clone(), Policy::ControlClients);
        Arc::new(tls::control_server(&self.credentials(path), verifier))
    }

    pub(crate) fn enroll_server(&self) -> Arc<rustls::ServerConfig> {
        let root = self.root.certificate().clone();
        Arc::new(tls::enroll_server(&self.credentials("controller/c1"), move || root.clone()))
    }

    /// An edge's or admin's configuration.
    pub(crate) fn client(&self, credentials: &LiveCredentials) -> Arc<rustls::ClientConfig> {
        let verifier = PeerVerifier::new(self.trust.clone(), Policy::Controller);
        Arc::new(tls::control_client(credentials, verifier))
    }

    pub(crate) fn edge(&self) -> Arc<rustls::ClientConfig> {
        self.client(&self.credentials("ns/prod/edge/aws-hk"))
    }
}

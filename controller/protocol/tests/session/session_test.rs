//! A mesh `m` and the TLS configurations of its participants.

use std::sync::Arc;

use cframe_pki::{
    Fingerprint,
    tls::{self, LiveCredentials},
    verifier::{Policy, Trust},
};
use cframe_test_pki::TestPki;

use crate::server::{Edge, Server};

pub(crate) struct SessionTest {
    pki: TestPki,
}

impl SessionTest {
    pub(crate) fn new() -> Self {
        Self { pki: TestPki::new("m") }
    }

    /// A controller, and an edge that connects to it.
    pub(crate) fn start(&self) -> (Server, Edge) {
        let server = Server::control(self.control_server());
        let edge = Edge::start(vec![server.address()], self.edge(), None);
        (server, edge)
    }

    /// Two controllers, and an edge that knows both.
    pub(crate) fn start_two(&self) -> ([Server; 2], Edge) {
        let servers = [(); 2].map(|()| Server::control(self.control_server()));
        let addresses = servers.iter().map(Server::address).collect();
        let edge = Edge::start(addresses, self.edge(), None);
        (servers, edge)
    }

    pub(crate) fn pin(&self) -> Fingerprint {
        self.pki.root.spki_sha256()
    }

    /// Credentials of `spiffe://m/<path>`.
    pub(crate) fn credentials(&self, path: &str) -> LiveCredentials {
        LiveCredentials::new(self.pki.credentials(&format!("spiffe://m/{path}"))).unwrap()
    }

    pub(crate) fn deny(&self, credentials: &LiveCredentials) {
        self.pki.deny(&credentials.identity());
    }

    /// Adds a new root and moves the controllers to it.
    pub(crate) fn rotate_root(&mut self) -> Trust {
        self.pki.rotate_root();
        self.pki.trust.clone()
    }

    /// Drops all roots but the newest.
    pub(crate) fn drop_old_root(&self) {
        self.pki.trust.replace(self.pki.bundle(), self.pki.trust.deny()).unwrap();
    }

    pub(crate) fn control_server(&self) -> Arc<rustls::ServerConfig> {
        self.control_server_as("controller/c1")
    }

    pub(crate) fn control_server_as(&self, path: &str) -> Arc<rustls::ServerConfig> {
        let verifier = self.pki.verifier(Policy::ControlClients);
        Arc::new(tls::control_server(&self.credentials(path), verifier))
    }

    pub(crate) fn enroll_server(&self) -> Arc<rustls::ServerConfig> {
        let root = self.pki.root.certificate().clone();
        Arc::new(tls::enroll_server(&self.credentials("controller/c1"), move || root.clone()))
    }

    /// The configuration of an edge or admin.
    pub(crate) fn client(&self, credentials: &LiveCredentials) -> Arc<rustls::ClientConfig> {
        let verifier = self.pki.verifier(Policy::Controller);
        Arc::new(tls::control_client(credentials, verifier))
    }

    pub(crate) fn edge(&self) -> Arc<rustls::ClientConfig> {
        self.client(&self.credentials("ns/prod/edge/aws-hk"))
    }
}

//! A mesh's CA and a fake controller, with real TLS, frames and messages.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use cfctl::context::{Context, Contexts};
use cframe_pki::{
    bundle::{DenyEntry, DenyList, TrustBundle},
    certificate_pem,
    identity::{Label, MeshName, SpiffeId},
    issue::{IssuingCa, RootCa, VerifiedCsr},
    key::PrivateKey,
    tls::{self, Credentials, LiveCredentials},
    verifier::{PeerVerifier, Policy, Trust},
};
use cframe_protocol::{
    frame::MAX_FRAME,
    session::{FrameReader, FrameWriter, transport},
    v1::{AdminReply, AdminRequest, Call, CallError, Reply},
};
use tokio::sync::oneshot;

/// The frames that answer a call.
pub(crate) type Answer = fn(&Call) -> Vec<Result<Reply, CallError>>;

pub(crate) struct TestCa {
    name: MeshName,
    root: RootCa,
    issuing: IssuingCa,
    now: u64,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let (name, now): (MeshName, _) = ("corp".parse().unwrap(), cframe_pki::unix_now());
        let root = RootCa::generate(&name, now).unwrap();
        let issuing = root.issuing_ca(now).unwrap();
        Self { name, root, issuing, now }
    }

    fn credentials(&self, id: &SpiffeId, lifetime: Duration) -> Credentials {
        let key = PrivateKey::generate().unwrap();
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let leaf = self.issuing.issue(&csr, id, lifetime, self.now).unwrap();
        Credentials { chain: vec![leaf.der, self.issuing.certificate().clone()], key }
    }

    fn trust(&self) -> Trust {
        let bundle =
            TrustBundle { roots: vec![self.root.certificate().clone()], ..Default::default() };
        Trust::new(self.name.clone(), bundle, DenyList::default()).unwrap()
    }

    /// Writes a file with the context of admin `alice`, whose certificate is valid for `days`.
    pub(crate) fn admin(&self, directory: &Path, controllers: &[&str], days: u64) -> PathBuf {
        let alice: Label = "alice".parse().unwrap();
        let lifetime = Duration::from_secs(days * 86_400);
        let credentials = self.credentials(&SpiffeId::admin(self.name.clone(), alice), lifetime);
        let context = Context {
            mesh: self.name.clone(),
            controllers: controllers.iter().map(|address| address.parse().unwrap()).collect(),
            namespace: None,
            certificate: credentials.chain.iter().map(|der| certificate_pem(der)).collect(),
            key: credentials.key.to_pem().to_string(),
            trust: certificate_pem(self.root.certificate()),
            revoked_issuers: Default::default(),
        };
        let path = directory.join("config.toml");
        let contexts = [("corp".to_owned(), context)].into();
        Contexts { current: Some("corp".to_owned()), contexts }.save(&path).unwrap();
        path
    }

    /// Starts a controller on a free port.
    pub(crate) fn controller(&self, answer: Answer) -> FakeController {
        self.busy_controller(0, answer)
    }

    /// Starts a controller that refuses the first `refusals` connections, as a busy one does.
    pub(crate) fn busy_controller(&self, refusals: usize, answer: Answer) -> FakeController {
        let id = SpiffeId::controller(self.name.clone(), "ctl-1".parse().unwrap());
        let credentials = self.credentials(&id, Duration::from_secs(86_400));
        let credentials = LiveCredentials::new(credentials).unwrap();
        let trust = self.trust();
        let verifier = PeerVerifier::new(trust.clone(), Policy::ControlClients);
        let tls = Arc::new(tls::control_server(&credentials, verifier));
        let config = transport::server_config(tls, transport::control_server()).unwrap();
        FakeController::start(config, trust, refusals, answer)
    }
}

/// A controller, stopped when dropped.
pub(crate) struct FakeController {
    pub(crate) address: SocketAddr,
    trust: Trust,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeController {
    fn start(config: quinn::ServerConfig, trust: Trust, refusals: usize, answer: Answer) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let endpoint = quinn::Endpoint::server(config, bind).unwrap();
                ready.send(endpoint.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = accept(&endpoint, refusals, answer) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address: is_ready.recv().unwrap(), trust, stop: Some(stop), thread: Some(thread) }
    }

    /// Revokes the certificate of a context's admin.
    pub(crate) fn revoke(&self, config: &Path) {
        let contexts = Contexts::load(config).unwrap();
        let identity = contexts.select(None).unwrap().1.identity().unwrap();
        let deny = [DenyEntry::from(&identity)].into_iter().collect();
        self.trust.replace(self.trust.bundle(), deny).unwrap();
    }
}

impl Drop for FakeController {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(endpoint: &quinn::Endpoint, refusals: usize, answer: Answer) {
    for _ in 0..refusals {
        let Some(incoming) = endpoint.accept().await else { return };
        incoming.refuse();
    }
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((send, receive)) = connection.accept_bi().await {
                let mut reader = FrameReader::new(receive, MAX_FRAME);
                let Ok(Some(request)) = reader.next::<AdminRequest>().await else { return };
                let mut writer = FrameWriter::new(send);
                for result in answer(&request.call) {
                    if writer.send(&AdminReply { result }).await.is_err() {
                        return;
                    }
                }
                writer.finish();
            }
        });
    }
}

//! A controller in this process, its admin, and edges that connect to it.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use cframe_controller::{
    Parts, RunError,
    audit::Retention,
    cli::{AdminContext, DataDir, Initial, initialise},
    serve::local,
};
use cframe_pki::{
    CertificateDer,
    bundle::{DenyList, TrustBundle},
    identity::Label,
    key::PrivateKey,
    tls::{self, Credentials, LiveCredentials},
    token::JoinToken,
    verifier::{PeerVerifier, Policy, Trust},
};
use cframe_protocol::{
    session::{
        CallFailure, Client, Command, EdgeSession, EnrollFailure, Event, admin_call, enroll,
    },
    v1::{Call, CallError, Changed, Desired, Endpoint, Enrolled, GoodbyeReason, Reply, TokenMade},
};
use cframe_store::{
    Advertisement, Batch, Boxed, CommitError, Page, ReadError, Revision, Store, Txn, View, Watch,
    WatchError, redb::Redb,
};
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) data: DataDir,
    pub(crate) control: SocketAddr,
    pub(crate) enroll: SocketAddr,
    pub(crate) admin: Client,
    /// While this is set, the store's disk is full.
    pub(crate) full: Arc<AtomicBool>,
    /// While this is set, following the store panics.
    pub(crate) panics: Arc<AtomicBool>,
    /// By how many seconds the controller's clock is ahead.
    pub(crate) ahead: Arc<AtomicU64>,
    /// The bounds of the audit log, from the next start on.
    pub(crate) keep: Retention,
    running: Option<Running>,
    _directory: TempDir,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl World {
    pub(crate) async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let data = DataDir::new(directory.path().join("data"));
        let (control, enroll) = (socket(), socket());
        let (control_at, enroll_at) = (control.local_addr().unwrap(), enroll.local_addr().unwrap());
        let initial = Initial {
            mesh: "m.test".parse().unwrap(),
            name: label("controller"),
            admin: label("root"),
            addresses: vec![Endpoint::from(control_at)],
        };
        let context = initialise(&data, &initial).await.unwrap();
        let admin = admin_client(&context);
        let mut world = Self {
            data,
            control: control_at,
            enroll: enroll_at,
            admin,
            full: Arc::default(),
            panics: Arc::default(),
            ahead: Arc::default(),
            keep: Retention::default(),
            running: None,
            _directory: directory,
        };
        world.run(control, enroll).await;
        world
    }

    /// With namespace `prod`, and these edges with one prefix each: 10.1.0.0/16, 10.2.0.0/16, …
    pub(crate) async fn with_edges(names: &[&str]) -> Self {
        let world = Self::start().await;
        world.add_namespace("prod").await;
        for (index, name) in names.iter().enumerate() {
            world.add_edge("prod", name, &format!("10.{}.0.0/16", index + 1)).await;
        }
        world
    }

    async fn run(&mut self, control: UdpSocket, enroll: UdpSocket) {
        let stop = CancellationToken::new();
        let inner = self.data.open_store().await.unwrap();
        let ahead = Arc::clone(&self.ahead);
        let parts = Parts {
            store: Arc::new(Brittle {
                inner,
                full: Arc::clone(&self.full),
                panics: Arc::clone(&self.panics),
            }),
            issuer: self.data.issuer().unwrap(),
            authorities: Some(self.data.authorities()),
            credentials: self.data.credentials().unwrap(),
            resets: self.data.resets().unwrap(),
            credentials_dir: Some(self.data.identity()),
            control,
            enroll,
            http: None,
            local: Some(local::bind(&self.data.socket()).unwrap()),
            clock: Arc::new(move || cframe_pki::unix_now() + ahead.load(Ordering::SeqCst)),
            audit: self.keep,
        };
        let task = tokio::spawn(cframe_controller::run(parts, stop.clone()));
        self.running = Some(Running { stop, task });
    }

    pub(crate) async fn stop(&mut self) {
        let Running { stop, task } = self.running.take().unwrap();
        stop.cancel();
        timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
    }

    /// How the controller ended by itself.
    pub(crate) async fn ended(&mut self) -> Result<(), RunError> {
        let Running { task, .. } = self.running.take().unwrap();
        timeout(PATIENCE, task).await.unwrap().unwrap()
    }

    /// Stops, and starts again from the same directory on the same ports.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    pub(crate) async fn start_again(&mut self) {
        let control = timeout(PATIENCE, bind(self.control)).await.unwrap();
        let enroll = timeout(PATIENCE, bind(self.enroll)).await.unwrap();
        self.run(control, enroll).await;
    }

    pub(crate) async fn call(&self, call: Call) -> Result<Vec<Reply>, CallFailure> {
        admin_call(&self.admin, call, false, PATIENCE).await
    }

    pub(crate) async fn reply(&self, call: Call) -> Reply {
        let mut replies = self.call(call).await.unwrap();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    pub(crate) async fn change(&self, call: Call) -> Changed {
        match self.reply(call).await {
            Reply::Changed(changed) => changed,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn refusal(&self, call: Call) -> CallError {
        refused(self.call(call).await)
    }

    pub(crate) async fn add_namespace(&self, name: &str) {
        let call = Call::NamespaceAdd {
            name: label(name),
            settings: Default::default(),
            description: String::new(),
        };
        self.change(call).await;
    }

    pub(crate) async fn add_edge(&self, namespace: &str, name: &str, cidr: &str) -> Changed {
        self.change(edge_add(namespace, name, cidr)).await
    }

    pub(crate) async fn token(&self, namespace: &str, edge: &str, rejoin: bool) -> JoinToken {
        let call = Call::TokenCreate {
            namespace: label(namespace),
            edge: label(edge),
            ttl_secs: 600,
            rejoin,
        };
        match self.reply(call).await {
            Reply::TokenMade(TokenMade { token, .. }) => token.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn join(&self, namespace: &str, edge: &str) -> Identity {
        let token = self.token(namespace, edge, false).await;
        join(&token).await.unwrap()
    }
}

/// A store whose disk can be full, and whose watch can panic.
struct Brittle {
    inner: Redb,
    full: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
}

struct BrittleWatch {
    inner: Box<dyn Watch>,
    panics: Arc<AtomicBool>,
}

impl Watch for BrittleWatch {
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>> {
        Box::pin(async {
            let batch = self.inner.next().await;
            assert!(!self.panics.load(Ordering::SeqCst), "as the test wants it");
            batch
        })
    }
}

impl Store for Brittle {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn max_ops(&self) -> usize {
        self.inner.max_ops()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        self.inner.list(prefix)
    }

    fn page<'a>(&'a self, page: &'a Page) -> Boxed<'a, Result<View, ReadError>> {
        self.inner.page(page)
    }

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        if self.full.load(Ordering::SeqCst) {
            return Box::pin(async { Err(CommitError::Full("no space left".to_owned())) });
        }
        self.inner.commit(txn)
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>> {
        Box::pin(async move {
            let inner = self.inner.watch(prefix, from).await?;
            Ok(Box::new(BrittleWatch { inner, panics: Arc::clone(&self.panics) }) as Box<dyn Watch>)
        })
    }

    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        self.inner.advertise(key, value, ttl)
    }

    fn close(&self) -> Boxed<'_, ()> {
        self.inner.close()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}

/// What an edge has after it joined.
pub(crate) struct Identity {
    pub(crate) enrolled: Enrolled,
    pub(crate) key: PrivateKey,
}

impl Identity {
    pub(crate) fn credentials(&self) -> Credentials {
        let chain = self.enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
        Credentials { chain, key: self.key.clone() }
    }

    pub(crate) fn serial(&self) -> cframe_pki::Serial {
        self.credentials().identity().unwrap().serial
    }

    pub(crate) fn client(&self) -> Client {
        let bundle = self.enrolled.trust.clone();
        client(&self.credentials(), bundle, self.enrolled.controllers.clone())
    }
}

pub(crate) async fn join(token: &JoinToken) -> Result<Identity, EnrollFailure> {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap().to_vec();
    let enrolled = enroll(token, csr, None, PATIENCE).await?;
    Ok(Identity { enrolled, key })
}

/// An edge with a session, which acknowledges whatever it gets.
pub(crate) struct Edge {
    pub(crate) desired: watch::Receiver<Option<Arc<Desired>>>,
    pub(crate) events: mpsc::UnboundedReceiver<Seen>,
    pub(crate) commands: mpsc::Sender<Command>,
    stop: CancellationToken,
}

/// Whether what is applied is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acks {
    AtOnce,
    ByOrder,
}

/// What happened to an edge's session.
#[derive(Debug)]
pub(crate) enum Seen {
    Connected,
    Goodbye(GoodbyeReason),
    Ended(String),
    Renewed(Result<Enrolled, CallError>),
    RenewNow,
}

impl Edge {
    pub(crate) fn connect(client: Client, have: Option<Arc<Desired>>) -> Self {
        Self::begin(client, have, Acks::AtOnce)
    }

    /// One that acknowledges nothing by itself.
    pub(crate) fn holding_back(client: Client) -> Self {
        Self::begin(client, None, Acks::ByOrder)
    }

    /// Acknowledges the newest state that has come.
    pub(crate) async fn acknowledge(&self) {
        let newest = self.desired.borrow().as_ref().map(|state| state.version);
        self.commands.send(Command::Ack(newest.unwrap())).await.unwrap();
    }

    fn begin(client: Client, have: Option<Arc<Desired>>, how: Acks) -> Self {
        let (event_in, mut event_out) = mpsc::channel(1);
        let (commands, command_out) = mpsc::channel(16);
        let (tell, events) = mpsc::unbounded_channel();
        let (newest, desired) = watch::channel(None);
        let stop = CancellationToken::new();
        let session = EdgeSession::new(client, have, "test", [7; 16]);
        tokio::spawn(session.run(event_in, command_out, stop.clone()));
        let acks = commands.clone();
        tokio::spawn(async move {
            while let Some(event) = event_out.recv().await {
                let seen = match event {
                    Event::Desired(state) => {
                        let version = state.version;
                        newest.send_replace(Some(state));
                        if how == Acks::AtOnce {
                            let _ = acks.send(Command::Ack(version)).await;
                        }
                        continue;
                    }
                    Event::Connected { .. } => Seen::Connected,
                    Event::Goodbye(reason) => Seen::Goodbye(reason),
                    Event::Disconnected(why) => Seen::Ended(why.to_string()),
                    Event::RenewReply(result) => Seen::Renewed(result),
                    Event::RenewNow => Seen::RenewNow,
                };
                let _ = tell.send(seen);
            }
        });
        Self { desired, events, commands, stop }
    }

    /// Waits for a state that is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Desired) -> bool) -> Arc<Desired> {
        let found =
            self.desired.wait_for(|state| state.as_ref().is_some_and(|state| wanted(state)));
        timeout(PATIENCE, found).await.expect("in time").unwrap().clone().unwrap()
    }

    /// Waits for an event that is as wanted; others are passed over.
    pub(crate) async fn event(&mut self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        timeout(PATIENCE, async {
            loop {
                let seen = self.events.recv().await.unwrap();
                if wanted(&seen) {
                    return seen;
                }
            }
        })
        .await
        .expect("in time")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn client(credentials: &Credentials, bundle: TrustBundle, at: Vec<Endpoint>) -> Client {
    let mesh = credentials.identity().unwrap().id.mesh;
    let trust = Trust::new(mesh, bundle, DenyList::default()).unwrap();
    let live = LiveCredentials::new(credentials.clone()).unwrap();
    let verifier = PeerVerifier::new(trust, Policy::Controller);
    Client { addresses: at, tls: Arc::new(tls::control_client(&live, verifier)), mark: None }
}

pub(crate) fn admin_client(context: &AdminContext) -> Client {
    let certificates = |text: &str| {
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap()
    };
    let credentials = Credentials {
        chain: certificates(&context.certificate),
        key: PrivateKey::from_pem(context.key.as_bytes()).unwrap(),
    };
    let bundle = TrustBundle { roots: certificates(&context.trust), ..TrustBundle::default() };
    let at = context.controllers.iter().map(|text| text.parse().unwrap()).collect();
    client(&credentials, bundle, at)
}

pub(crate) fn admin_of(path: &Path) -> Client {
    let contexts = cframe_controller::cli::Contexts::load(path).unwrap();
    let current = contexts.current.unwrap();
    admin_client(&contexts.contexts[&current])
}

pub(crate) fn refused(result: Result<Vec<Reply>, CallFailure>) -> CallError {
    match result {
        Err(CallFailure::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn edge_add(namespace: &str, name: &str, cidr: &str) -> Call {
    Call::EdgeAdd {
        namespace: label(namespace),
        name: label(name),
        cidrs: vec![cidr.parse().unwrap()],
        endpoints: vec![format!("{name}.example.com:58423").parse().unwrap()],
        description: String::new(),
    }
}

pub(crate) fn route_add(name: &str, prefix: &str, edge: &str) -> Call {
    Call::RouteAdd {
        namespace: label("prod"),
        name: label(name),
        prefix: prefix.parse().unwrap(),
        edge: label(edge),
    }
}

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// quinn gives a closed endpoint's socket back when its last connection has drained.
pub(crate) async fn bind(address: SocketAddr) -> UdpSocket {
    loop {
        match UdpSocket::bind(address) {
            Ok(socket) => return socket,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

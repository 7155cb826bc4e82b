//! Controllers in this process.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cframe_controller::{
    Parts, RunError,
    audit::Retention,
    cli::{DataDir, Joined},
    model::record::ROOT,
    serve::local,
};
use cframe_pki::{
    Fingerprint,
    issue::{RootCa, VerifiedCsr},
    unix_now,
};
use cframe_protocol::{
    session::{Client, Command},
    v1::Endpoint,
};
use cframe_store::{
    Op, Store,
    faulty::{Faults, FaultyStore},
    redb::Redb,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    admin::AdminCalls,
    credentials::{EdgeIdentity, admin_client},
    edge::{TestEdge, join},
    mesh::TestMesh,
    wait::{in_time, until},
};

/// A controller, and an admin who calls no other. It has a runtime of its own, so that it can be killed.
pub(crate) struct TestController {
    pub(crate) data: DataDir,
    pub(crate) control: SocketAddr,
    pub(crate) enroll: SocketAddr,
    pub(crate) admin: Client,
    /// The faults of its store. The commits counted are those that a controller must not base on an old state: they
    /// write certificates, denials or issuing CAs, or remove something.
    pub(crate) faults: Arc<Faults>,
    /// How many seconds its clock is ahead.
    pub(crate) seconds_ahead: Arc<AtomicU64>,
    /// The bounds of the audit log, from the next start on.
    pub(crate) keep: Retention,
    /// The store that several controllers use. None for the one in its data directory.
    pub(crate) shared_store: Option<Arc<dyn Store>>,
    pub(crate) mesh: Arc<TestMesh>,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    store: Arc<FaultyStore>,
    task: JoinHandle<Result<(), RunError>>,
    runtime: Option<Runtime>,
}

/// The sockets of a controller.
struct Sockets {
    control: UdpSocket,
    enroll: UdpSocket,
}

impl TestController {
    /// The only controller of a mesh, `controller`.
    pub(crate) async fn start() -> Self {
        let sockets = Sockets::new();
        let mesh = TestMesh::init("controller", sockets.control()).await;
        let mut controller = Self::new(Arc::new(mesh), "controller", &sockets, None);
        controller.run(sockets).await;
        controller
    }

    /// The only controller of a mesh with [these edges](AdminCalls::add_edges).
    pub(crate) async fn with_edges(names: &[&str]) -> Self {
        let controller = Self::start().await;
        controller.add_edges(names).await;
        controller
    }

    /// Two controllers, `a` and `b`, of a mesh with [these edges](AdminCalls::add_edges).
    pub(crate) async fn pair(names: &[&str]) -> [Self; 2] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("store.redb");
        let store = tokio::task::spawn_blocking(move || Redb::open(&path)).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        Self::pair_in(directory, [Arc::clone(&store), store], names).await
    }

    /// Two controllers with two handles to one store, which was empty.
    pub(crate) async fn pair_on(stores: [Arc<dyn Store>; 2], names: &[&str]) -> [Self; 2] {
        Self::pair_in(TempDir::new().unwrap(), stores, names).await
    }

    async fn pair_in(directory: TempDir, stores: [Arc<dyn Store>; 2], names: &[&str]) -> [Self; 2] {
        let sockets = [Sockets::new(), Sockets::new()];
        let mesh = TestMesh::init_in(&*stores[0], directory, "a", sockets[0].control()).await;
        let mesh = Arc::new(mesh);
        let (data, signer) = (mesh.data("b"), mesh.root_signer());
        let joined = mesh.join(&*stores[1], ("b", sockets[1].control()), &data, signer).await;
        assert_eq!(joined, Ok(Joined::Member("m.test".parse().unwrap())));
        let ([a_sockets, b_sockets], [a_store, b_store]) = (sockets, stores);
        let mut a = Self::new(Arc::clone(&mesh), "a", &a_sockets, Some(a_store));
        let mut b = Self::new(mesh, "b", &b_sockets, Some(b_store));
        a.run(a_sockets).await;
        b.run(b_sockets).await;
        let pair = [a, b];
        both_run(&pair).await;
        pair[0].add_edges(names).await;
        pair
    }

    fn new(
        mesh: Arc<TestMesh>,
        name: &str,
        sockets: &Sockets,
        shared_store: Option<Arc<dyn Store>>,
    ) -> Self {
        Self {
            data: mesh.data(name),
            control: sockets.control.local_addr().unwrap(),
            enroll: sockets.enroll.local_addr().unwrap(),
            admin: Client { addresses: vec![sockets.control()], ..admin_client(&mesh.context) },
            faults: Arc::new(Faults::counting(must_be_current)),
            seconds_ahead: Arc::default(),
            keep: Retention::default(),
            shared_store,
            mesh,
            running: None,
        }
    }

    async fn run(&mut self, sockets: Sockets) {
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let faults = Arc::clone(&self.faults);
        let store = Arc::new(match &self.shared_store {
            Some(store) => FaultyStore::shared(Arc::clone(store), faults),
            None => FaultyStore::new(Arc::new(self.data.open_store().await.unwrap()), faults),
        });
        let local = {
            let _inside = runtime.enter();
            local::bind(&self.data.socket()).unwrap()
        };
        let seconds_ahead = Arc::clone(&self.seconds_ahead);
        let parts = Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            issuer: self.data.issuer().unwrap(),
            authorities: Some(self.data.authorities()),
            credentials: self.data.credentials().unwrap(),
            resets: self.data.resets().unwrap(),
            credentials_dir: Some(self.data.identity()),
            control: sockets.control,
            enroll: sockets.enroll,
            http: None,
            local: Some(local),
            clock: Arc::new(move || unix_now() + seconds_ahead.load(Ordering::SeqCst)),
            audit: self.keep,
        };
        let task = runtime.spawn(cframe_controller::run(parts, stop.clone()));
        self.running = Some(Running { stop, store, task, runtime: Some(runtime) });
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        self.running.as_ref().unwrap().stop.cancel();
        self.ended().await.unwrap();
    }

    /// Waits until it has ended, and returns how.
    pub(crate) async fn ended(&mut self) -> Result<(), RunError> {
        let mut running = self.running.take().unwrap();
        in_time(&mut running.task).await.unwrap()
    }

    /// Kills it as SIGKILL does: nothing of it runs on, and nobody is notified.
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().unwrap();
        running.store.kill();
        running.runtime.take().unwrap().shutdown_background();
    }

    /// Starts it again, from the same directory on the same ports.
    pub(crate) async fn start_again(&mut self) {
        let sockets = Sockets {
            control: in_time(bind(self.control)).await,
            enroll: in_time(bind(self.enroll)).await,
        };
        self.run(sockets).await;
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// From now on it receives nothing of what others write to the store.
    pub(crate) fn hold_watches(&self) {
        self.faults.watches_held.send_replace(true);
    }

    /// Attempts something while the watches are [held](Self::hold_watches), and releases them once this controller has tried
    /// to commit.
    pub(crate) async fn too_late<T>(&self, attempt: impl Future<Output = T>) -> T {
        let commits = || self.faults.commits.load(Ordering::SeqCst);
        let before = commits();
        let release = async {
            until(async || commits() > before).await;
            self.faults.watches_held.send_replace(false);
        };
        tokio::join!(attempt, release).0
    }

    /// The store takes away what this controller has advertised.
    pub(crate) fn expire_lease(&self) {
        self.faults.lease_expiry.notify_one();
    }

    /// Makes a new issuing CA under a root, on this controller's disk only, as the first half of `ca renew` does.
    pub(crate) fn new_issuing_ca(&self, root: &RootCa) -> Fingerprint {
        let authorities = self.data.authorities();
        let csr = VerifiedCsr::from_der(&authorities.request().unwrap()).unwrap();
        let certificate = root.sign_issuing(&csr, unix_now()).unwrap();
        authorities.complete(&certificate, root.certificate()).unwrap()
    }

    /// Makes this issuing CA the one that signs, as the second half of `ca renew` does. Returns the warnings.
    pub(crate) async fn sign_with(
        &self,
        issuer: Fingerprint,
        force: bool,
    ) -> Result<Vec<String>, String> {
        let answer = local::request_issuer(&self.data.socket(), issuer, force).await;
        answer.map(Option::unwrap).map_err(|error| error.to_string())
    }

    /// Joins an edge, through this controller even if the token names others.
    pub(crate) async fn join(&self, edge: &str) -> EdgeIdentity {
        let mut token = self.token(edge).await;
        token.addresses = vec![self.enroll.to_string()];
        join(&token).await.unwrap()
    }

    /// An edge with a session here that also knows the other controllers, so that it moves to one at once.
    pub(crate) async fn movable_edge(&self, identity: &EdgeIdentity) -> TestEdge {
        let mut edge = TestEdge::online(self.only(identity)).await;
        edge.commands.send(Command::Client(identity.client())).await.unwrap();
        edge.connected().await;
        edge
    }

    /// The client of an edge that knows no other controller.
    pub(crate) fn only(&self, edge: &EdgeIdentity) -> Client {
        self.only_here(edge.client())
    }

    /// A client that knows no other controller.
    pub(crate) fn only_here(&self, client: Client) -> Client {
        Client { addresses: vec![Endpoint::from(self.control)], ..client }
    }
}

impl AdminCalls for TestController {
    fn client(&self) -> &Client {
        &self.admin
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until each controller knows that the other runs.
pub(crate) async fn both_run(pair: &[TestController; 2]) {
    for controller in pair {
        until(async || controller.status().await.controllers.len() == 2).await;
    }
}

fn must_be_current(op: &Op) -> bool {
    match op {
        Op::Put { key, .. } => {
            ["/certs/", "/denied/", "/issuers/"].iter().any(|part| key.contains(part))
        }
        Op::Delete { key } => key.starts_with(ROOT),
    }
}

impl Sockets {
    fn new() -> Self {
        Self { control: socket(), enroll: socket() }
    }

    fn control(&self) -> Endpoint {
        Endpoint::from(self.control.local_addr().unwrap())
    }
}

/// A socket on a port of the loopback that nobody uses.
pub(crate) fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// quinn gives a closed endpoint's socket back when its last connection has drained.
async fn bind(address: SocketAddr) -> UdpSocket {
    loop {
        match UdpSocket::bind(address) {
            Ok(socket) => return socket,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
        tokio::task::yield_now().await;
    }
}

//! Two controllers of one mesh, `a` and `b`, on one store. Each has a runtime of its own, so that it can be
//! killed: nothing of it runs on, and nobody is told.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cframe_controller::{
    Parts, RunError,
    audit::Retention,
    cli::{DataDir, Initial, Joined, Joining, Signer, initialise_in, join},
    serve::local,
};
use cframe_pki::issue::RootCa;
use cframe_protocol::{
    session::{CallFailure, Client, admin_call},
    v1::{Call, CallError, Changed, Endpoint, MeshStatus, Reply, TokenMade},
};
use cframe_store::{
    Advertisement, Batch, Boxed, CommitError, Op, ReadError, Revision, Store, Txn, View, Watch,
    WatchError, redb::Redb,
};
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::world::{
    Identity, PATIENCE, admin_client, bind, edge_add, join as join_mesh, label, refused, socket,
};

pub(crate) struct Pair {
    pub(crate) a: Member,
    pub(crate) b: Member,
    _directory: TempDir,
}

/// One of the controllers, and an admin who talks to no other.
pub(crate) struct Member {
    pub(crate) data: DataDir,
    pub(crate) control: SocketAddr,
    pub(crate) enroll: SocketAddr,
    pub(crate) admin: Client,
    /// While this is true, it hears of no write.
    pub(crate) held: watch::Sender<bool>,
    /// The transactions that it has tried and that write of certificates, denials or issuing CAs, or remove something.
    pub(crate) tried: Arc<AtomicUsize>,
    pub(crate) store: Arc<dyn Store>,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    killed: Arc<AtomicBool>,
    lost: Arc<Notify>,
    task: JoinHandle<Result<(), RunError>>,
    runtime: Option<Runtime>,
}

impl Pair {
    /// With namespace `prod`, and these edges with one prefix each: 10.1.0.0/16, 10.2.0.0/16, …
    pub(crate) async fn with_edges(names: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("store.redb");
        let store = tokio::task::spawn_blocking(move || Redb::open(&path)).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        Self::on([Arc::clone(&store), store], directory, names).await
    }

    /// The same with a handle each to a store that is empty.
    pub(crate) async fn on(
        stores: [Arc<dyn Store>; 2],
        directory: TempDir,
        names: &[&str],
    ) -> Self {
        let data = |name: &str| DataDir::new(directory.path().join(name));
        let mut places: Vec<_> = (0..2).map(|_| (socket(), socket())).collect();
        let at = |place: usize| places[place].0.local_addr().unwrap();
        let initial = Initial {
            mesh: "m.test".parse().unwrap(),
            name: label("a"),
            admin: label("root"),
            addresses: vec![Endpoint::from(at(0))],
        };
        let context = initialise_in(&data("a"), &initial, &*stores[0]).await.unwrap();
        let joining = Joining { name: label("b"), addresses: vec![Endpoint::from(at(1))] };
        let root = RootCa::load(&data("a").ca()).unwrap();
        let joined = join(&*stores[1], &data("b"), &joining, Signer::Root(Box::new(root))).await;
        assert_eq!(joined.unwrap(), Joined::Member("m.test".parse().unwrap()));
        let mut members = Vec::new();
        for (name, store) in ["a", "b"].into_iter().zip(stores) {
            let (control, enroll) = places.remove(0);
            let mut admin = admin_client(&context);
            admin.addresses = vec![Endpoint::from(control.local_addr().unwrap())];
            let mut member = Member {
                data: data(name),
                control: control.local_addr().unwrap(),
                enroll: enroll.local_addr().unwrap(),
                admin,
                held: watch::Sender::new(false),
                tried: Arc::default(),
                store,
                running: None,
            };
            member.run(control, enroll);
            members.push(member);
        }
        let b = members.remove(1);
        let pair = Self { a: members.remove(0), b, _directory: directory };
        pair.both_run().await;
        let call = Call::NamespaceAdd {
            name: label("prod"),
            settings: Default::default(),
            description: String::new(),
        };
        pair.a.change(call).await;
        for (index, name) in names.iter().enumerate() {
            pair.a.change(edge_add("prod", name, &format!("10.{}.0.0/16", index + 1))).await;
        }
        pair
    }

    /// Waits until each knows that the other runs.
    pub(crate) async fn both_run(&self) {
        for member in [&self.a, &self.b] {
            until(async || member.status().await.controllers.len() == 2).await;
        }
    }

    pub(crate) async fn join(&self, edge: &str) -> Identity {
        self.a.join(edge).await
    }
}

/// Waits for a condition.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    let reached = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, reached).await.expect("in time");
}

impl Member {
    /// Starts it again.
    pub(crate) async fn start(&mut self) {
        let control = timeout(PATIENCE, bind(self.control)).await.unwrap();
        let enroll = timeout(PATIENCE, bind(self.enroll)).await.unwrap();
        self.run(control, enroll);
    }

    fn run(&mut self, control: UdpSocket, enroll: UdpSocket) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (stop, killed) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let lost = Arc::new(Notify::new());
        let (inner, tell) = (Arc::clone(&self.store), Arc::clone(&lost));
        let (held, tried) = (self.held.clone(), Arc::clone(&self.tried));
        let store = Shared { inner, killed: Arc::clone(&killed), lost: tell, held, tried };
        let inside = runtime.enter();
        let local = local::bind(&self.data.socket()).unwrap();
        drop(inside);
        let parts = Parts {
            store: Arc::new(store),
            issuer: self.data.issuer().unwrap(),
            credentials: self.data.credentials().unwrap(),
            resets: self.data.resets().unwrap(),
            credentials_dir: Some(self.data.identity()),
            control,
            enroll,
            http: None,
            local: Some(local),
            clock: Arc::new(cframe_pki::unix_now),
            audit: Retention::default(),
            authorities: Some(self.data.authorities()),
        };
        let task = runtime.spawn(cframe_controller::run(parts, stop.clone()));
        self.running = Some(Running { stop, killed, lost, task, runtime: Some(runtime) });
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        self.running.as_ref().unwrap().stop.cancel();
        self.ended().await.unwrap();
    }

    /// How it ended by itself.
    pub(crate) async fn ended(&mut self) -> Result<(), RunError> {
        let mut running = self.running.take().unwrap();
        let task = std::mem::replace(&mut running.task, tokio::spawn(async { Ok(()) }));
        timeout(PATIENCE, task).await.expect("in time").unwrap()
    }

    /// Kills it as SIGKILL does.
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().unwrap();
        running.killed.store(true, Ordering::SeqCst);
        running.runtime.take().unwrap().shutdown_background();
    }

    /// The store takes away what it has advertised.
    pub(crate) fn lose_lease(&self) {
        self.running.as_ref().unwrap().lost.notify_one();
    }

    /// Lets it try something upon what it knew when it was held back, and only then hear of the rest.
    pub(crate) async fn too_late<T>(&self, doing: impl Future<Output = T>) -> T {
        let before = self.tried.load(Ordering::SeqCst);
        let release = async {
            until(async || self.tried.load(Ordering::SeqCst) > before).await;
            self.held.send_replace(false);
        };
        tokio::join!(doing, release).0
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

    pub(crate) async fn status(&self) -> MeshStatus {
        match self.reply(Call::Status).await {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn token(&self, edge: &str) -> cframe_pki::token::JoinToken {
        let (namespace, edge) = (label("prod"), label(edge));
        let call = Call::TokenCreate { namespace, edge, ttl_secs: 600, rejoin: false };
        match self.reply(call).await {
            Reply::TokenMade(TokenMade { token, .. }) => token.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// By this controller, whichever others the token names.
    pub(crate) async fn join(&self, edge: &str) -> Identity {
        let mut token = self.token(edge).await;
        token.addresses = vec![self.enroll.to_string()];
        join_mesh(&token).await.unwrap()
    }

    /// An edge's client that knows no other controller.
    pub(crate) fn only(&self, edge: &Identity) -> Client {
        Client { addresses: vec![Endpoint::from(self.control)], ..edge.client() }
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

/// One of several handles to a store, which none of them closes.
struct Shared {
    inner: Arc<dyn Store>,
    /// Its writer cannot take back what it has advertised any more: the lease has to run out.
    killed: Arc<AtomicBool>,
    lost: Arc<Notify>,
    held: watch::Sender<bool>,
    tried: Arc<AtomicUsize>,
}

/// A watch that can be held back.
struct Held {
    inner: Box<dyn Watch>,
    next: Option<Batch>,
    held: watch::Receiver<bool>,
}

impl Watch for Held {
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>> {
        Box::pin(async {
            if self.next.is_none() {
                self.next = Some(self.inner.next().await?);
            }
            let _ = self.held.wait_for(|held| !held).await;
            Ok(self.next.take().unwrap())
        })
    }
}

struct Leased {
    inner: Option<Box<dyn Advertisement>>,
    ttl: Duration,
    killed: Arc<AtomicBool>,
    lost: Arc<Notify>,
}

impl Advertisement for Leased {
    fn lost(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            self.lost.notified().await;
            // What the store has taken away is gone.
            drop(self.inner.take());
        })
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take().filter(|_| self.killed.load(Ordering::SeqCst)) else {
            return;
        };
        let ttl = self.ttl;
        std::thread::spawn(move || {
            std::thread::sleep(ttl);
            drop(inner);
        });
    }
}

impl Store for Shared {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn max_ops(&self) -> usize {
        self.inner.max_ops()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        self.inner.list(prefix)
    }

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        let counts = |op: &Op| match op {
            Op::Put { key, .. } => {
                ["/certs/", "/denied/", "/issuers/"].iter().any(|part| key.contains(part))
            }
            Op::Delete { key } => key.starts_with(cframe_controller::model::record::ROOT),
        };
        let counted = txn.ops.iter().any(counts);
        let committed = self.inner.commit(txn);
        Box::pin(async move {
            let result = committed.await;
            self.tried.fetch_add(usize::from(counted), Ordering::SeqCst);
            result
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>> {
        Box::pin(async move {
            let (inner, held) = (self.inner.watch(prefix, from).await?, self.held.subscribe());
            Ok(Box::new(Held { inner, next: None, held }) as Box<dyn Watch>)
        })
    }

    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        Box::pin(async move {
            let inner = Some(self.inner.advertise(key, value, ttl).await?);
            let (killed, lost) = (Arc::clone(&self.killed), Arc::clone(&self.lost));
            Ok(Box::new(Leased { inner, ttl, killed, lost }) as Box<dyn Advertisement>)
        })
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async {})
    }
}

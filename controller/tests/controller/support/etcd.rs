//! Clusters of etcd on the loopback. Each member is a process that ends with the test.

use std::{
    io,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock, mpsc},
    thread,
    time::Duration,
};

use cframe_store::etcd::{Config, Etcd};
use etcd_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::wait::TIMEOUT;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) struct EtcdCluster {
    pub(crate) members: Vec<EtcdMember>,
    _directory: TempDir,
}

pub(crate) struct EtcdMember {
    pub(crate) endpoint: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

#[derive(Default)]
pub(crate) struct EtcdOptions {
    /// More arguments for every member. `{host}` stands for its address.
    pub(crate) arguments: Vec<String>,
    /// Whether clients connect with TLS.
    pub(crate) tls: bool,
}

impl EtcdCluster {
    pub(crate) async fn start(size: usize) -> Self {
        let cluster = Self::spawn(size, network(), &EtcdOptions::default());
        cluster.ready().await;
        cluster
    }

    /// Starts members at `NETWORK.1`, `NETWORK.2`, … and does not wait for them.
    pub(crate) fn spawn(size: usize, network: String, options: &EtcdOptions) -> Self {
        let directory = tempfile::Builder::new().prefix("cf.etcd.").tempdir().unwrap();
        let scheme = if options.tls { "https" } else { "http" };
        let host = |index: usize| format!("{network}.{}", index + 1);
        let peers: Vec<String> =
            (0..size).map(|index| format!("m{index}=http://{}:2380", host(index))).collect();
        let members = (0..size).map(|index| {
            let endpoint = format!("{scheme}://{}:2379", host(index));
            let peer = format!("http://{}:2380", host(index));
            let data = directory.path().join(format!("m{index}"));
            let mut arguments: Vec<String> = [
                ("--name", format!("m{index}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", endpoint.clone()),
                ("--advertise-client-urls", endpoint.clone()),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", peers.join(",")),
                ("--initial-cluster-token", network.clone()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect();
            arguments.extend(
                options.arguments.iter().map(|given| given.replace("{host}", &host(index))),
            );
            let log = directory.path().join(format!("m{index}.log"));
            let mut member = EtcdMember { endpoint, arguments, log, child: None };
            member.start();
            member
        });
        Self { members: members.collect(), _directory: directory }
    }

    /// Waits until a leader answers.
    pub(crate) async fn ready(&self) {
        let waited = timeout(TIMEOUT, async {
            while self.leader().await.is_none() {
                sleep(POLL_INTERVAL).await;
            }
        });
        assert!(waited.await.is_ok(), "etcd does not come up: {}", self.members[0].log());
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// A handle that tries the members in this order.
    pub(crate) fn store_of(&self, order: &[usize]) -> Arc<Etcd> {
        let endpoints = order.iter().map(|index| self.members[*index].endpoint.clone()).collect();
        Arc::new(Etcd::new(&Config { endpoints, ..Config::default() }).unwrap())
    }

    pub(crate) fn store(&self) -> Arc<Etcd> {
        let all: Vec<usize> = (0..self.members.len()).collect();
        self.store_of(&all)
    }

    /// A client of one member, for what the store's handle cannot do.
    pub(crate) async fn client(&self, member: usize) -> Client {
        Client::connect([&self.members[member].endpoint], None).await.unwrap()
    }

    /// The index of the leader, if it answers.
    pub(crate) async fn leader(&self) -> Option<usize> {
        for index in 0..self.members.len() {
            let status = async {
                let client = Client::connect([&self.members[index].endpoint], None).await?;
                client.maintenance_client().status().await
            };
            let Ok(Ok(status)) = timeout(Duration::from_millis(500), status).await else {
                continue;
            };
            if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                return Some(index);
            }
        }
        None
    }

    /// Deletes everything, so that it is as a new etcd.
    pub(crate) async fn clear(&self) {
        let mut client = self.client(0).await;
        let all = etcd_client::DeleteOptions::new().with_prefix();
        client.delete("/cframe", Some(all)).await.unwrap();
    }

    /// Runs etcdctl, and returns its output.
    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoints().join(",")]);
        let output =
            command.args(arguments).output().unwrap_or_else(|error| missing("etcdctl", &error));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl EtcdMember {
    pub(crate) fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        // The kernel kills it when this process is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "etcd"]).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(spawn(command));
    }

    /// From the next start on, the member runs without this flag and the flag's value.
    pub(crate) fn remove_flag(&mut self, flag: &str) {
        let at = self.arguments.iter().position(|given| given == flag).unwrap();
        let value = self.arguments.get(at + 1).is_some_and(|next| !next.starts_with("--"));
        self.arguments.drain(at..=at + usize::from(value));
    }

    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops the process; its connections stay open.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        if log.contains("failed to execute") {
            panic!(
                "etcd cannot be started; as root, apt-get install etcd-server etcd-client: {log}"
            );
        }
        log.lines().rev().take(10).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for EtcdMember {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A part of the loopback network that most likely nothing else on this machine uses.
pub(crate) fn network() -> String {
    let random = random_bytes();
    format!("127.{}.{}", 64 + random[0] % 128, random[1])
}

fn random_bytes() -> [u8; 2] {
    let mut bytes = [0; 2];
    let mut source = std::fs::File::open("/dev/urandom").unwrap();
    io::Read::read_exact(&mut source, &mut bytes).unwrap();
    bytes
}

type Job = Box<dyn FnOnce() + Send>;

/// For `--pdeathsig`, the parent is the thread that started the child. So all children are started by a thread that runs as
/// long as the process.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::spawn(move || queue.into_iter().for_each(|job| job()));
    jobs
});

fn spawn(mut command: Command) -> Child {
    let (answer, answered) = mpsc::channel();
    let job = move || answer.send(command.spawn()).unwrap();
    SPAWNER.send(Box::new(job)).unwrap();
    answered.recv().unwrap().unwrap_or_else(|error| missing("setpriv", &error))
}

fn missing(program: &str, error: &io::Error) -> ! {
    panic!(
        "{program} cannot be started ({error}); as root, apt-get install etcd-server etcd-client util-linux"
    )
}

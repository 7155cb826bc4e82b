//! The real program on a real etcd.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use cframe_protocol::{
    session::{Client, admin_call},
    v1::{Call, MeshStatus, Reply},
};
use cframe_store::Store;
use tempfile::TempDir;

use super::cluster::{Cluster, PATIENCE, PREFIX, Setup, network, spawn, until};
use crate::world::{admin_of, edge_add, label, route_add, socket};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cframe-controller");

/// A host for a controller: its data, its ports.
struct Host {
    directory: TempDir,
    control: SocketAddr,
    enroll: SocketAddr,
    http: SocketAddr,
    store: Vec<String>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    fn on(endpoints: &[String]) -> Self {
        let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let store = ["--store", "etcd", "--etcd-endpoint", &endpoints.join(",")];
        Self {
            directory: TempDir::new().unwrap(),
            control: socket().local_addr().unwrap(),
            enroll: socket().local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            store: if endpoints.is_empty() { Vec::new() } else { store.map(str::to_owned).into() },
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).args(&self.store).args(["--data-dir", &self.shown("data")]);
        command.env("NO_COLOR", "1").output().unwrap()
    }

    fn init(&self) -> Output {
        let address = self.control.to_string();
        let context = self.shown("admin.toml");
        self.command(&[
            "init",
            "--mesh",
            "m.test",
            "--address",
            &address,
            "--admin-context",
            &context,
        ])
    }

    /// Begins; whether it is up is for `ready` to say.
    fn run(&self) -> Running {
        let log = std::fs::File::create(self.file("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .arg("run")
            .args(&self.store)
            .args(["--data-dir", &self.shown("data")])
            .args(["--control-listen", &self.control.to_string()])
            .args(["--enroll-listen", &self.enroll.to_string()])
            .args(["--metrics-listen", &self.http.to_string()])
            .env("NO_COLOR", "1")
            .stderr(Stdio::from(log));
        Running(spawn(command))
    }

    fn fetch(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    async fn ready(&self) {
        until(PATIENCE, async || {
            self.fetch("/readyz").is_some_and(|answer| answer.ends_with("ready\n"))
        })
        .await;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap()
    }

    fn admin(&self) -> Client {
        admin_of(&self.file("admin.toml"))
    }
}

fn ok(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

/// One line, with the exit code.
fn failed(output: &Output, code: i32, part: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.lines().count() == 1 && text.contains(part), "{text}");
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn call(client: &Client, call: Call) -> Vec<Reply> {
    admin_call(client, call, false, PATIENCE).await.unwrap()
}

async fn status(client: &Client) -> MeshStatus {
    let Reply::Status(status) = call(client, Call::Status).await.remove(0) else {
        panic!("status")
    };
    status
}

async fn prepare(admin: &Client, routes: usize) {
    let (name, settings) = (label("prod"), Default::default());
    call(admin, Call::NamespaceAdd { name, settings, description: String::new() }).await;
    call(admin, edge_add("prod", "a", "172.16.0.0/16")).await;
    for index in 0..routes {
        let prefix = format!("10.{}.{}.0/24", index / 256, index % 256);
        call(admin, route_add(&format!("r{index}"), &prefix, "a")).await;
    }
}

async fn count(cluster: &Cluster, below: &str) -> usize {
    cluster.store().list(&format!("{PREFIX}{below}")).await.unwrap().entries.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_in_etcd_is_made_once_served_and_read_by_people() {
    let cluster = Cluster::start(3).await;
    let host = Host::on(&cluster.endpoints());
    ok(&host.init());
    let other = Host::on(&cluster.endpoints());
    failed(&other.init(), 4, "there is a mesh already");
    assert!(!other.file("data/ca").exists(), "keys of no mesh");
    failed(&host.init(), 4, "already");

    let _running = host.run();
    host.ready().await;
    let admin = host.admin();
    prepare(&admin, 1).await;
    let status = status(&admin).await;
    assert_eq!(status.controllers[0].store, "etcd: ok (3 of 3 members)");
    let metrics = host.fetch("/metrics").unwrap();
    for name in ["watch_restarts_total 0", "relist_differences_total 0", "list_seconds_count 0"] {
        assert!(metrics.contains(&format!("cframe_controller_{name}")), "{name} in {metrics}");
    }

    let text = cluster.etcdctl(&["get", "--prefix", "/cframe"]);
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks(2) {
        let [key, value] = pair else { panic!("{pair:?}") };
        assert!(key.starts_with("/cframe/"), "{key}");
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        assert!(value.is_object(), "{value}");
        assert!(!key.starts_with(PREFIX) || value["schema"] == 1, "{key} {value}");
    }
    assert!(lines.contains(&"/cframe/v1/edges/prod/a"), "{text}");
    assert!(lines.contains(&"/cframe/v1/routes/prod/r0"), "{text}");
    assert!(!text.contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_waits_for_its_etcd_and_says_so() {
    let mut cluster = Cluster::start(1).await;
    let host = Host::on(&cluster.endpoints());
    ok(&host.init());
    cluster.members[0].kill();
    let running = host.run();
    until(PATIENCE, async || {
        host.fetch("/readyz").is_some_and(|answer| {
            answer.starts_with("HTTP/1.1 503") && answer.contains("does not answer")
        })
    })
    .await;
    assert!(host.fetch("/healthz").unwrap().starts_with("HTTP/1.1 200"));
    let log = host.log();
    assert_eq!(log.matches("the store does not answer").count(), 1, "{log}");
    assert!(log.contains(&cluster.endpoints()[0]), "{log}");
    cluster.members[0].start();
    host.ready().await;
    status(&host.admin()).await;
    drop(running);

    // It stops when told to while it waits, too.
    cluster.members[0].kill();
    let mut running = host.run();
    until(PATIENCE, async || host.log().contains("does not answer")).await;
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || running.0.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(2), ended).await.expect("in time");
    assert!(ended.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_edge_and_a_large_namespace_are_removed_in_steps() {
    let cluster = Cluster::start(1).await;
    let host = Host::on(&cluster.endpoints());
    ok(&host.init());
    let _running = host.run();
    host.ready().await;
    let admin = host.admin();
    prepare(&admin, 300).await;
    let edge = || Call::EdgeDel { namespace: label("prod"), name: label("a") };
    let Reply::Changed(rehearsed) =
        admin_call(&admin, edge(), true, PATIENCE).await.unwrap().remove(0)
    else {
        panic!("a change")
    };
    assert!(rehearsed.warnings[0].contains("300 routes"), "{:?}", rehearsed.warnings);
    assert_eq!(count(&cluster, "routes/").await, 300);
    call(&admin, edge()).await;
    assert_eq!((count(&cluster, "routes/").await, count(&cluster, "edges/").await), (0, 0));

    for index in 0..150 {
        call(&admin, edge_add("prod", &format!("e{index}"), &format!("10.0.{index}.0/24"))).await;
        call(
            &admin,
            route_add(&format!("r{index}"), &format!("10.1.{index}.0/24"), &format!("e{index}")),
        )
        .await;
    }
    call(&admin, Call::NamespaceDel { name: label("prod"), cascade: true }).await;
    for below in ["routes/", "edges/", "namespaces/"] {
        assert_eq!(count(&cluster, below).await, 0, "{below}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_moves_a_mesh_from_the_embedded_store_to_etcd() {
    let embedded = Host::on(&[]);
    ok(&embedded.init());
    let running = embedded.run();
    embedded.ready().await;
    let admin = embedded.admin();
    prepare(&admin, 300).await;
    let epoch = status(&admin).await.epoch;
    let backup = embedded.shown("backup");
    ok(&embedded.command(&["backup", "--out", &backup]));
    drop(running);

    let cluster = Cluster::start(1).await;
    let moved = Host { store: Host::on(&cluster.endpoints()).store, ..embedded };
    // What a restore that was cut off leaves: the next one clears it away.
    let left = "/cframe/v1/routes/prod/left-behind";
    cluster.etcdctl(&["put", left, "{\"schema\":1,\"prefix\":\"10.9.9.0/24\",\"edge\":\"a\"}"]);
    failed(&moved.command(&["run", "--metrics-listen", "off"]), 3, "no mesh");
    ok(&moved.command(&["restore", "--in", &backup]));
    assert_eq!(count(&cluster, "routes/").await, 300);
    assert!(!cluster.etcdctl(&["get", "--prefix", "/cframe"]).contains("left-behind"));
    failed(&moved.command(&["restore", "--in", &backup]), 4, "has a mesh already");

    let running = moved.run();
    moved.ready().await;
    let after = status(&admin).await;
    assert!(after.epoch > epoch, "{} after {epoch}", after.epoch);
    assert!(after.controllers[0].store.starts_with("etcd: ok"));
    drop(running);
    // And a backup without a running controller.
    let again = moved.shown("again");
    ok(&moved.command(&["backup", "--out", &again]));
    // The audit log has grown.
    let size = |path: &str| {
        let text = std::fs::read_to_string(Path::new(path)).unwrap();
        text.lines()
            .filter(|line| line.contains("/cframe/v1/") && !line.contains("/cframe/audit/"))
            .count()
    };
    assert_eq!(size(&again), size(&backup));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_that_was_cut_off_is_done_again_or_found_done() {
    // Nobody is at home: the keys are in place and the mesh is not made.
    let nowhere = format!("http://{}.1:2379", network());
    let mut host = Host::on(&[nowhere]);
    failed(&host.init(), 1, "does not answer");

    let cluster = Cluster::start(1).await;
    host.store = Host::on(&cluster.endpoints()).store;
    ok(&host.init());
    // As if it had been killed between the commit and its end.
    let marker = host.file("data/init-unfinished");
    std::fs::write(&marker, "").unwrap();
    std::fs::remove_file(host.file("admin.toml")).unwrap();
    failed(&host.command(&["run", "--metrics-listen", "off"]), 3, "init");
    failed(&host.init(), 1, "made the mesh");
    let _running = host.run();
    host.ready().await;
    ok(&host.command(&["admin", "--admin-context", &host.shown("admin.toml")]));
    status(&host.admin()).await;

    // And between the keys and the commit.
    let other = Cluster::with(1, network(), &Setup::default());
    other.ready().await;
    let half = Host::on(&other.endpoints());
    for directory in ["data", "data/ca"] {
        std::fs::create_dir(half.file(directory)).unwrap();
        use std::os::unix::fs::PermissionsExt;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(half.file(directory), private).unwrap();
    }
    std::fs::write(half.file("data/ca/issuing-key.pem"), "of no mesh").unwrap();
    failed(&half.init(), 4, "already");
    std::fs::write(half.file("data/init-unfinished"), "").unwrap();
    ok(&half.init());
    assert!(!half.file("data/init-unfinished").exists());
}

#[test]
fn what_is_wrong_in_the_configuration_is_named_at_once() {
    let mut host = Host::on(&[]);
    host.store = vec!["--store".to_owned(), "etcd".to_owned()];
    failed(&host.init(), 1, "--etcd-endpoint");
    let mut slip = Host::on(&["http://10.0.0.1:port".to_owned()]);
    failed(&slip.init(), 1, "10.0.0.1:port");
    let key = slip.file("key.pem");
    cframe_pki::files::write_secret(&key, b"no key").unwrap();
    let shown = key.display().to_string();
    slip.store = Host::on(&["https://127.0.0.1:1".to_owned()]).store;
    for flag in ["--etcd-ca", "--etcd-cert", "--etcd-key"] {
        slip.store.extend([flag.to_owned(), shown.clone()]);
    }
    failed(&slip.init(), 1, "127.0.0.1:1");
    let password = host.file("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    host.store.extend(
        ["--etcd-endpoint", "http://127.0.0.1:1", "--etcd-username", "u", "--etcd-password-file"]
            .map(str::to_owned),
    );
    host.store.push(password.display().to_string());
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = host.init();
    failed(&output, 1, "chmod 600");
    assert!(!stderr(&output).contains("hunter2"));
}

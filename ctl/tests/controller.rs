//! The program against a real controller on loopback.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cframe_controller::{
    Parts,
    cli::{AdminContext, Contexts, DataDir, Initial, initialise},
};
use cframe_pki::{
    bundle::TrustBundle, identity::SpiffeId, issue::VerifiedCsr, key::PrivateKey, tls::Credentials,
    token::JoinToken,
};
use cframe_protocol::v1::Enrolled;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// A controller that runs until it is dropped, and the context of its first admin.
struct TestMesh {
    directory: tempfile::TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl TestMesh {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = control.local_addr().unwrap();
        let (stop, thread) = serve(directory.path().to_owned(), control, true);
        Self { directory, address, stop, thread: Some(thread) }
    }

    /// Stops the controller.
    fn stop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }

    /// Starts the controller again, on the same port.
    fn start_again(&mut self) {
        let started = Instant::now();
        let control = loop {
            match UdpSocket::bind(self.address) {
                Ok(socket) => break socket,
                Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "{error}"),
            }
        };
        let (stop, thread) = serve(self.directory.path().to_owned(), control, false);
        (self.stop, self.thread) = (stop, Some(thread));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run_as(&self, context: &str, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cfctl"))
            .env_clear()
            .current_dir(self.directory.path())
            .arg("--config")
            .arg(self.path(context))
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a line that must exit with `code`. Returns standard output and standard error.
    #[track_caller]
    fn ends(&self, code: i32, line: &str) -> (String, String) {
        let output = self.run_as("admin.toml", line);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}\n{out}{err}");
        (out, err)
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ends(0, &format!("{line} -o json")).0).unwrap()
    }
}

impl Drop for TestMesh {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a controller in its own thread.
fn serve(path: PathBuf, control: UdpSocket, new: bool) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let (ready, is_ready) = mpsc::channel();
    let token = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            if new {
                init(&path, &control).await;
            }
            let parts = parts(&path, control).await;
            ready.send(()).unwrap();
            cframe_controller::run(parts, token).await.unwrap();
        });
    });
    is_ready.recv().unwrap();
    (stop, thread)
}

/// As `cframe-controller init`.
async fn init(directory: &Path, control: &UdpSocket) {
    let initial = Initial {
        mesh: "corp.example".parse().unwrap(),
        name: "ctl-1".parse().unwrap(),
        admin: "root".parse().unwrap(),
        addresses: vec![control.local_addr().unwrap().into()],
    };
    let data = DataDir::new(directory.join("data"));
    let context = initialise(&data, &initial).await.unwrap();
    let name = "corp.example".to_owned();
    let mut contexts = Contexts::default();
    contexts.put(name.clone(), context.clone());
    contexts.save(&directory.join("admin.toml")).unwrap();
    contexts.put(name, aged(&data, &context));
    contexts.save(&directory.join("aged.toml")).unwrap();
}

/// As `cframe-controller run`, before it serves.
async fn parts(directory: &Path, control: UdpSocket) -> Parts {
    let data = DataDir::new(directory.join("data"));
    Parts {
        store: Arc::new(data.open_store().await.unwrap()),
        issuer: data.issuer().unwrap(),
        authorities: None,
        credentials: data.credentials().unwrap(),
        resets: data.resets().unwrap(),
        credentials_dir: None,
        control,
        enroll: UdpSocket::bind("127.0.0.1:0").unwrap(),
        http: None,
        local: None,
        clock: Arc::new(cframe_pki::unix_now),
        audit: Default::default(),
    }
}

/// The context with a certificate in the middle of its lifetime: certificates start an hour in the past.
fn aged(data: &DataDir, context: &AdminContext) -> AdminContext {
    let key = PrivateKey::generate().unwrap();
    let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
    let id = SpiffeId::admin("corp.example".parse().unwrap(), "root".parse().unwrap());
    let issuer = data.issuer().unwrap();
    let (hour, now) = (Duration::from_secs(3_600), cframe_pki::unix_now());
    let issued = issuer.ca().issue(&csr, &id, hour, now).unwrap();
    let chain = vec![issued.der, issuer.ca().certificate().clone()];
    let roots = vec![issuer.root().der.clone()];
    let trust = TrustBundle { roots, ..TrustBundle::default() };
    let controllers = context.controllers.clone();
    AdminContext::new(context.mesh.clone(), controllers, &Credentials { chain, key }, &trust)
}

const ADD_HK: &str =
    "edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58423";

#[test]
fn the_first_day_of_an_operator() {
    let mesh = TestMesh::start();
    assert_eq!(mesh.json("version")["protocol"], 1);
    mesh.ends(0, "namespace add prod");
    mesh.ends(0, ADD_HK);
    mesh.ends(0, "edge add idc -n prod --cidr 10.60.6.0/24,fd00:60::/64");

    let (line, message) = mesh.ends(0, "token create --namespace prod --edge aws-hk --ttl 1h");
    let token = line.strip_prefix("cframe-edge join ").unwrap().strip_suffix('\n').unwrap();
    assert!(token.starts_with("cfj1.") && token.parse::<JoinToken>().is_ok(), "{token}");
    assert!(!message.contains("cfj1."));
    let tokens = mesh.ends(0, "token list -o json").0;
    assert!(!tokens.contains("cfj1.") && tokens.contains("\"created_by\": \"root\""), "{tokens}");

    let started = Instant::now();
    let add = "route add pods-hk --namespace prod --cidr 10.244.0.0/16 --edge aws-hk";
    mesh.ends(0, &format!("{add} --wait"));
    println!("route add: {:?}", started.elapsed());
    assert_eq!(mesh.json("route list")[0]["cidr"], "10.244.0.0/16");

    let edges = mesh.json("edge list");
    assert_eq!(edges[0]["endpoints"][0], "203.0.113.7:58423");
    assert_eq!(edges[1]["cidrs"][1], "fd00:60::/64");
    let (status, _) = mesh.ends(7, "status");
    assert!(status.contains("problem: edge prod/idc has not joined yet"), "{status}");

    mesh.ends(0, "edge set aws-hk -n prod --no-endpoint");
    assert_eq!(mesh.json("edge show aws-hk -n prod")["endpoints"], Value::Array(Vec::new()));
    mesh.ends(0, "route del pods-hk -n prod --yes");
    mesh.ends(0, "edge del idc -n prod --yes");
    mesh.ends(0, "namespace del prod --cascade --yes");
    assert_eq!(mesh.json("namespace list"), Value::Array(Vec::new()));
}

#[test]
fn every_refusal_has_its_exit_code_and_names_the_conflict() {
    let mesh = TestMesh::start();
    mesh.ends(0, "namespace add prod");
    mesh.ends(0, ADD_HK);
    for (code, line, expected) in [
        (4, "edge add b -n prod --cidr 172.30.4.0/24", "172.30.0.0/16 of edge aws-hk"),
        (4, "namespace add prod", "prod"),
        (4, "namespace del prod", "aws-hk"),
        (1, "edge add b -n prod --cidr 0.0.0.0/0", "default route"),
        (3, "edge show aws-kh -n prod", "did you mean aws-hk?"),
        (3, "edge list -n prodd", "did you mean prod?"),
        (2, "edge add b -n prod --cidr 10.2.3.4/16", "did you mean 10.2.0.0/16?"),
        (2, "edge add B -n prod", "lower-case"),
        (2, "edge del aws-hk -n prod", "--yes"),
        (3, "cert revoke --edge aws-hk -n prod --yes", "no valid certificate"),
        (6, "cert renew --edge aws-hk -n prod", "no session"),
    ] {
        let (out, err) = mesh.ends(code, line);
        assert!(err.starts_with("error: ") && err.contains(expected), "{line}\n{err}");
        assert_eq!(out, "", "{line}");
    }
    let (_, warned) = mesh.ends(0, "edge add b -n prod --cidr 203.0.113.0/24");
    assert!(warned.starts_with("warning: ") && warned.contains("203.0.113.7:58423"), "{warned}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let mesh = TestMesh::start();
    mesh.ends(0, "namespace add prod");
    mesh.ends(0, ADD_HK);
    let before = mesh.json("namespace list");
    std::fs::write(mesh.path("csr"), PrivateKey::generate().unwrap().csr_pem().unwrap()).unwrap();
    for line in [
        "namespace add lab",
        "edge add idc -n prod --cidr 10.60.6.0/24",
        "edge del aws-hk -n prod",
        "token create -n prod --edge aws-hk",
        "admin add alice --out alice.toml",
        "cert enroll --csr csr -n prod --edge aws-hk --out-dir out",
    ] {
        let (out, err) = mesh.ends(0, &format!("{line} --dry-run"));
        assert!(out.is_empty() && err.ends_with("(dry run)\n"), "{line}\n{out}{err}");
    }
    assert_eq!(mesh.json("namespace list"), before);
    assert_eq!(mesh.json("token list"), Value::Array(Vec::new()));
    assert_eq!(mesh.json("admin list").as_array().unwrap().len(), 1);
    assert!(!mesh.path("alice.toml").exists());
}

#[test]
fn a_gateway_enrols_with_a_request_and_its_certificate_is_revoked() {
    let mesh = TestMesh::start();
    mesh.ends(0, "namespace add prod");
    mesh.ends(0, ADD_HK);
    std::fs::write(mesh.path("csr"), PrivateKey::generate().unwrap().csr_pem().unwrap()).unwrap();
    mesh.ends(0, "cert enroll --csr csr -n prod --edge aws-hk --out-dir out");
    let answer = std::fs::read(mesh.path("out/enrolled.json")).unwrap();
    let enrolled: Enrolled = serde_json::from_slice(&answer).unwrap();
    assert_eq!((enrolled.edge.as_str(), enrolled.chain.len()), ("aws-hk", 2));

    let cert = &mesh.json("cert list -n prod")[0];
    assert_eq!((cert["state"].as_str(), cert["name"].as_str()), (Some("valid"), Some("aws-hk")));
    mesh.ends(0, "cert revoke --edge aws-hk -n prod --yes --reason lost");
    let shown = mesh.json(&format!("cert show {}", cert["serial"].as_str().unwrap()));
    assert_eq!(
        (shown["state"].as_str(), shown["reason"].as_str()),
        (Some("revoked"), Some("lost"))
    );
}

#[test]
fn a_read_only_admin_and_a_removed_one_are_not_allowed() {
    let mesh = TestMesh::start();
    mesh.ends(0, "namespace add prod");
    mesh.ends(0, "admin add alice --read-only --out alice.toml");
    let code = |line: &str| mesh.run_as("alice.toml", line).status.code();
    assert_eq!(code("namespace list"), Some(0));
    assert_eq!(code("namespace del prod"), Some(5));
    mesh.ends(0, "admin del alice");
    assert_eq!(code("namespace list"), Some(5));
}

#[test]
fn an_admins_certificate_is_renewed_by_any_command() {
    use std::os::unix::fs::PermissionsExt;
    let mesh = TestMesh::start();
    let path = mesh.path("aged.toml");
    let read = || Contexts::load(&path).unwrap().contexts["corp.example"].clone();
    let run = |line: &str| {
        let output = mesh.run_as("aged.toml", line);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    run("context set --default-namespace prod");
    let before = read();
    run("namespace add prod --dry-run");
    assert_eq!(read().certificate, before.certificate, "a dry run changes nothing");

    assert_eq!(run("namespace list"), "");
    let after = read();
    assert!(after.certificate != before.certificate && after.key != before.key);
    assert_eq!(after.rest["namespace"].as_str(), Some("prod"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run("namespace list"), "");
    assert_eq!(read().certificate, after.certificate, "once is enough");

    // A failed renewal is only a warning.
    let restore = || {
        let mut contexts = Contexts::load(&path).unwrap();
        contexts.put("corp.example".to_owned(), before.clone());
        contexts.save(&path).unwrap();
    };
    let mut last = String::new();
    for _ in 0..8 {
        restore();
        last = run("namespace list");
    }
    assert!(last.starts_with("warning: ") && last.contains("was not renewed"), "{last}");
    assert!(last.contains("cframe-controller admin --name root"), "{last}");
    assert_eq!(read().certificate, before.certificate);
}

/// `cfctl audit --follow`, stopped when dropped.
struct Follower(std::process::Child, std::io::Lines<BufReader<std::process::ChildStdout>>);

impl Follower {
    fn start(mesh: &TestMesh, line: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cfctl"))
            .env_clear()
            .arg("--config")
            .arg(mesh.path("admin.toml"))
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines)
    }

    fn line(&mut self) -> String {
        self.1.next().unwrap().unwrap()
    }

    fn record(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_audit_log_is_printed_and_followed_across_a_restart() {
    let mut mesh = TestMesh::start();
    mesh.ends(0, "namespace add prod");
    mesh.ends(0, ADD_HK);
    mesh.ends(4, ADD_HK);
    let (table, _) = mesh.ends(0, "audit");
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TIME", "WHO", "CALL", "SUBJECT", "RESULT", "FROM"]);
    assert_eq!(rows[1][2..5], ["init", "corp.example", "ok"]);
    assert_eq!(rows[2][1..5], ["admin/root", "namespace-add", "prod", "ok"]);
    assert_eq!(rows[3][1..5], ["admin/root", "edge-add", "prod/aws-hk", "ok"]);

    let mut follower = Follower::start(&mesh, "audit --follow -o json --call edge-add --since 1h");
    let added = follower.record();
    assert_eq!(added["result"], "ok");
    assert_eq!(added["changes"][0]["after"]["cidrs"][0], "172.30.0.0/16");
    let refused = follower.record();
    assert_eq!(refused["result"], "conflict");
    let add = |name: &str, net: &str| format!("edge add {name} -n prod --cidr {net}");
    mesh.ends(0, &add("b", "10.1.0.0/16"));
    assert_eq!(follower.record()["subject"], "prod/b");
    mesh.stop();
    mesh.start_again();
    mesh.ends(0, &add("c", "10.2.0.0/16"));
    assert_eq!(follower.record()["subject"], "prod/c", "once, and nothing again");
    mesh.ends(0, "namespace add lab");
    mesh.ends(0, &add("d", "10.3.0.0/16"));
    assert_eq!(follower.record()["subject"], "prod/d");
    drop(follower);

    let mut table = Follower::start(&mesh, "audit --follow --limit 1 -n lab");
    assert!(table.line().starts_with("TIME "));
    assert!(table.line().contains(" lab "));

    let of_lab = mesh.json("audit -n lab");
    assert_eq!(of_lab.as_array().unwrap().len(), 1);
    let (newest, message) = mesh.ends(0, "audit --limit 2 -o json");
    assert_eq!(serde_json::from_str::<Value>(&newest).unwrap()[1]["subject"], "prod/d");
    assert!(message.contains("the newest 2 records; --limit 0 shows all"), "{message}");
    assert_eq!(mesh.json("audit --since 2020-01-01 --until 2020-01-02"), Value::Array(Vec::new()));
    mesh.ends(2, "audit --since yesterday");
    mesh.ends(2, "audit --follow --until 1h");
}

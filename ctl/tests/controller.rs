//! The program against a real controller on the loopback: a day of an operator.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Lines},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
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

const TIMEOUT: Duration = Duration::from_secs(20);

/// A controller that runs until it is dropped, and the contexts of its first admin.
struct TestController {
    directory: tempfile::TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl TestController {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = control.local_addr().unwrap();
        let (stop, thread) = serve(directory.path().to_owned(), control, true);
        Self { directory, address, stop, thread: Some(thread) }
    }

    fn stop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }

    /// Starts it again, on the same port.
    fn start_again(&mut self) {
        let start = Instant::now();
        let control = loop {
            match UdpSocket::bind(self.address) {
                Ok(socket) => break socket,
                Err(error) => assert!(start.elapsed() < TIMEOUT, "{error}"),
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

    /// Runs a command that must end with this code. Returns its standard output and standard error.
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

impl Drop for TestController {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a controller in a thread of its own.
fn serve(path: PathBuf, control: UdpSocket, new: bool) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let (up_sender, up) = mpsc::channel();
    let token = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            if new {
                init(&path, &control).await;
            }
            let parts = parts(&path, control).await;
            up_sender.send(()).unwrap();
            cframe_controller::run(parts, token).await.unwrap();
        });
    });
    up.recv().unwrap();
    (stop, thread)
}

/// What `cframe-controller init` does.
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

/// What `cframe-controller run` does before it serves.
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

/// The context with a certificate that is in the middle of its lifetime: like all, it is valid from an hour ago.
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
    let controller = TestController::start();
    assert_eq!(controller.json("version")["protocol"], 1);
    controller.ends(0, "namespace add prod");
    controller.ends(0, ADD_HK);
    controller.ends(0, "edge add idc -n prod --cidr 10.60.6.0/24,fd00:60::/64");

    let (line, remark) = controller.ends(0, "token create --namespace prod --edge aws-hk --ttl 1h");
    let token = line.strip_prefix("cframe-edge join ").unwrap().strip_suffix('\n').unwrap();
    assert!(token.starts_with("cfj1.") && token.parse::<JoinToken>().is_ok(), "{token}");
    assert!(!remark.contains("cfj1."));
    let tokens = controller.ends(0, "token list -o json").0;
    assert!(!tokens.contains("cfj1.") && tokens.contains("\"created_by\": \"root\""), "{tokens}");

    let started = Instant::now();
    let add = "route add pods-hk --namespace prod --cidr 10.244.0.0/16 --edge aws-hk";
    controller.ends(0, &format!("{add} --wait"));
    println!("route add: {:?}", started.elapsed());
    assert_eq!(controller.json("route list")[0]["cidr"], "10.244.0.0/16");

    let edges = controller.json("edge list");
    assert_eq!(edges[0]["endpoints"][0], "203.0.113.7:58423");
    assert_eq!(edges[1]["cidrs"][1], "fd00:60::/64");
    let (status, _) = controller.ends(7, "status");
    assert!(status.contains("idc"), "{status}");

    controller.ends(0, "edge set aws-hk -n prod --no-endpoint");
    assert_eq!(controller.json("edge show aws-hk -n prod")["endpoints"], Value::Array(Vec::new()));
    controller.ends(0, "route del pods-hk -n prod --yes");
    controller.ends(0, "edge del idc -n prod --yes");
    controller.ends(0, "namespace del prod --cascade --yes");
    assert_eq!(controller.json("namespace list"), Value::Array(Vec::new()));
}

#[test]
fn every_refusal_has_its_code_and_names_both_sides() {
    let controller = TestController::start();
    controller.ends(0, "namespace add prod");
    controller.ends(0, ADD_HK);
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
        let (out, err) = controller.ends(code, line);
        assert!(err.starts_with("error: ") && err.contains(expected), "{line}\n{err}");
        assert_eq!(out, "", "{line}");
    }
    let (_, warned) = controller.ends(0, "edge add b -n prod --cidr 203.0.113.0/24");
    assert!(warned.starts_with("warning: ") && warned.contains("203.0.113.7:58423"), "{warned}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let controller = TestController::start();
    controller.ends(0, "namespace add prod");
    controller.ends(0, ADD_HK);
    let before = controller.json("namespace list");
    std::fs::write(controller.path("csr"), PrivateKey::generate().unwrap().csr_pem().unwrap())
        .unwrap();
    for line in [
        "namespace add lab",
        "edge add idc -n prod --cidr 10.60.6.0/24",
        "edge del aws-hk -n prod",
        "token create -n prod --edge aws-hk",
        "admin add alice --out alice.toml",
        "cert enroll --csr csr -n prod --edge aws-hk --out-dir out",
    ] {
        let (out, err) = controller.ends(0, &format!("{line} --dry-run"));
        assert!(out.is_empty() && err.ends_with("(dry run)\n"), "{line}\n{out}{err}");
    }
    assert_eq!(controller.json("namespace list"), before);
    assert_eq!(controller.json("token list"), Value::Array(Vec::new()));
    assert_eq!(controller.json("admin list").as_array().unwrap().len(), 1);
    assert!(!controller.path("alice.toml").exists());
}

#[test]
fn a_gateway_enrols_by_request_and_loses_its_certificate() {
    let controller = TestController::start();
    controller.ends(0, "namespace add prod");
    controller.ends(0, ADD_HK);
    std::fs::write(controller.path("csr"), PrivateKey::generate().unwrap().csr_pem().unwrap())
        .unwrap();
    controller.ends(0, "cert enroll --csr csr -n prod --edge aws-hk --out-dir out");
    let answer = std::fs::read(controller.path("out/enrolled.json")).unwrap();
    let enrolled: Enrolled = serde_json::from_slice(&answer).unwrap();
    assert_eq!((enrolled.edge.as_str(), enrolled.chain.len()), ("aws-hk", 2));

    let cert = &controller.json("cert list -n prod")[0];
    assert_eq!((cert["state"].as_str(), cert["name"].as_str()), (Some("valid"), Some("aws-hk")));
    controller.ends(0, "cert revoke --edge aws-hk -n prod --yes --reason lost");
    let shown = controller.json(&format!("cert show {}", cert["serial"].as_str().unwrap()));
    assert_eq!(
        (shown["state"].as_str(), shown["reason"].as_str()),
        (Some("revoked"), Some("lost"))
    );
}

#[test]
fn a_read_only_admin_may_not_write_and_a_removed_admin_may_not_read() {
    let controller = TestController::start();
    controller.ends(0, "namespace add prod");
    controller.ends(0, "admin add alice --read-only --out alice.toml");
    let code = |line: &str| controller.run_as("alice.toml", line).status.code();
    assert_eq!(code("namespace list"), Some(0));
    assert_eq!(code("namespace del prod"), Some(5));
    controller.ends(0, "admin del alice");
    assert_eq!(code("namespace list"), Some(5));
}

#[test]
fn an_admins_certificate_is_renewed_when_it_is_used() {
    use std::os::unix::fs::PermissionsExt;
    let controller = TestController::start();
    let path = controller.path("aged.toml");
    let read = || Contexts::load(&path).unwrap().contexts["corp.example"].clone();
    let run = |line: &str| {
        let output = controller.run_as("aged.toml", line);
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

    // If a renewal is refused, the command only warns.
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

/// `cfctl audit --follow`, until it is dropped.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(controller: &TestController, line: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cfctl"))
            .env_clear()
            .arg("--config")
            .arg(controller.path("admin.toml"))
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn record(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_audit_log_is_shown_and_followed_across_a_restart() {
    let mut controller = TestController::start();
    controller.ends(0, "namespace add prod");
    controller.ends(0, ADD_HK);
    controller.ends(4, ADD_HK);
    let (table, _) = controller.ends(0, "audit");
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TIME", "WHO", "CALL", "SUBJECT", "RESULT", "FROM"]);
    assert_eq!(rows[1][2..5], ["init", "corp.example", "ok"]);
    assert_eq!(rows[2][1..5], ["admin/root", "namespace-add", "prod", "ok"]);
    assert_eq!(rows[3][1..5], ["admin/root", "edge-add", "prod/aws-hk", "ok"]);

    let mut follower =
        Follower::start(&controller, "audit --follow -o json --call edge-add --since 1h");
    let added = follower.record();
    assert_eq!(added["result"], "ok");
    assert_eq!(added["changes"][0]["after"]["cidrs"][0], "172.30.0.0/16");
    let refused = follower.record();
    assert_eq!(refused["result"], "conflict");
    let add = |name: &str, net: &str| format!("edge add {name} -n prod --cidr {net}");
    controller.ends(0, &add("b", "10.1.0.0/16"));
    assert_eq!(follower.record()["subject"], "prod/b");
    controller.stop();
    controller.start_again();
    controller.ends(0, &add("c", "10.2.0.0/16"));
    assert_eq!(follower.record()["subject"], "prod/c", "once, and no record twice");
    controller.ends(0, "namespace add lab");
    controller.ends(0, &add("d", "10.3.0.0/16"));
    assert_eq!(follower.record()["subject"], "prod/d");
    drop(follower);

    let mut table = Follower::start(&controller, "audit --follow --limit 1 -n lab");
    assert!(table.line().starts_with("TIME "));
    assert!(table.line().contains(" lab "));

    let of_lab = controller.json("audit -n lab");
    assert_eq!(of_lab.as_array().unwrap().len(), 1);
    let (newest, remark) = controller.ends(0, "audit --limit 2 -o json");
    assert_eq!(serde_json::from_str::<Value>(&newest).unwrap()[1]["subject"], "prod/d");
    assert!(remark.contains("the newest 2 records; --limit 0 shows all"), "{remark}");
    assert_eq!(
        controller.json("audit --since 2020-01-01 --until 2020-01-02"),
        Value::Array(Vec::new())
    );
    controller.ends(2, "audit --since yesterday");
    controller.ends(2, "audit --follow --until 1h");
}

//! The real program: signals, kills, files, exit codes.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_protocol::{
    session::{AdminConnection, Client, admin_call},
    v1::{Call, Reply},
};
use tempfile::TempDir;

use crate::world::{Edge, PATIENCE, Seen, admin_of, edge_add, join, label, route_add, socket};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cframe-controller");

pub(crate) struct Site {
    directory: TempDir,
    control: SocketAddr,
    enroll: SocketAddr,
    http: SocketAddr,
}

impl Site {
    /// A mesh in a directory, on ports that were free a moment ago.
    pub(crate) fn init() -> Self {
        let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Self {
            directory: TempDir::new().unwrap(),
            control: socket().local_addr().unwrap(),
            enroll: socket().local_addr().unwrap(),
            http: http.local_addr().unwrap(),
        };
        let output = site.command(&[
            "init",
            "--mesh",
            "m.test",
            "--address",
            &site.control.to_string(),
            "--admin-context",
            &site.context().display().to_string(),
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        site
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn context(&self) -> PathBuf {
        self.directory.path().join("admin.toml")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        program(arguments, &self.data())
    }

    pub(crate) fn run(&self) -> Running {
        self.run_on(&self.data())
    }

    /// Runs until it says that it is up.
    pub(crate) fn run_on(&self, data: &Path) -> Running {
        let mut child = Command::new(PROGRAM)
            .args(["run", "--data-dir"])
            .arg(data)
            .args(["--control-listen", &self.control.to_string()])
            .args(["--enroll-listen", &self.enroll.to_string()])
            .args(["--metrics-listen", &self.http.to_string()])
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("controller is up") {
            let read = log.read_line(&mut said).unwrap();
            assert!(read > 0, "it ended: {said}");
        }
        // What it says further on is read, so that it never waits for a reader.
        let mut file = std::fs::File::create(self.file("log")).unwrap();
        std::thread::spawn(move || std::io::copy(&mut log, &mut file));
        Running(child)
    }

    pub(crate) fn admin(&self) -> Client {
        admin_of(&self.context())
    }
}

pub(crate) struct Running(Child);

impl Running {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn program(arguments: &[&str], data: &Path) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) async fn call(client: &Client, call: Call) -> Vec<Reply> {
    admin_call(client, call, false, PATIENCE).await.unwrap()
}

async fn routes(admin: &AdminConnection) -> BTreeSet<String> {
    let replies = admin.call(Call::RouteList { namespace: None }, false).await.unwrap();
    let replies = replies.collect().await.unwrap();
    let Some(Reply::Routes(rows)) = replies.into_iter().next() else { panic!("routes") };
    rows.into_iter().map(|row| row.name.to_string()).collect()
}

async fn prepare(admin: &Client) {
    let name = label("prod");
    let settings = Default::default();
    call(admin, Call::NamespaceAdd { name, settings, description: String::new() }).await;
    call(admin, edge_add("prod", "a", "172.16.0.0/16")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_mid_write_loses_nothing_that_was_acknowledged() {
    const KILLS: usize = 20;
    let site = Site::init();
    let admin = site.admin();
    let mut running = site.run();
    prepare(&admin).await;
    let mut acknowledged = BTreeSet::new();
    let mut attempted = BTreeSet::new();
    let mut slowest = Duration::ZERO;
    for round in 0..KILLS {
        let connection = Arc::new(AdminConnection::connect(&admin).await.unwrap());
        // Four writers at once, so that the kill finds some in the store's hands.
        let (done, mut acks) = tokio::sync::mpsc::unbounded_channel();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (connection, done) = (Arc::clone(&connection), done.clone());
                tokio::spawn(async move {
                    for index in 0..60 {
                        let name = format!("r{round}-{writer}-{index}");
                        let prefix = format!("10.{round}.{}.0/24", writer * 60 + index);
                        let _ = done.send((name.clone(), false));
                        let asked = connection.call(route_add(&name, &prefix, "a"), false).await;
                        let Ok(replies) = asked else { return };
                        if replies.collect().await.is_err() {
                            return;
                        }
                        let _ = done.send((name, true));
                    }
                })
            })
            .collect();
        drop(done);
        // The moment differs from round to round; what was said until then counts.
        let mut running_now = Some(running);
        let mut seen = 0;
        while let Some((name, acked)) = acks.recv().await {
            if acked {
                seen += 1;
                acknowledged.insert(name);
            } else {
                attempted.insert(name);
            }
            if seen > round * 3 % 37
                && let Some(running) = running_now.take()
            {
                running.kill();
                // They would wait out their connections; what was acknowledged is in the channel.
                writers.iter().for_each(tokio::task::JoinHandle::abort);
            }
        }
        let begun = Instant::now();
        running = site.run();
        let connection = AdminConnection::connect(&admin).await.unwrap();
        let there = routes(&connection).await;
        slowest = slowest.max(begun.elapsed());
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "lost after kill {round}: {lost:?}");
        assert!(there.is_subset(&attempted), "something that nobody wrote");
    }
    eprintln!(
        "{KILLS} kills, {} acknowledged writes; slowest start to answer {slowest:?}",
        acknowledged.len()
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_stops_within_two_seconds_also_with_connections() {
    let site = Site::init();
    let admin = site.admin();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut running = site.run();
        let standing = AdminConnection::connect(&admin).await.unwrap();
        standing.call(Call::Version, false).await.unwrap().collect().await.unwrap();
        let begun = Instant::now();
        running.signal(signal);
        let status = tokio::task::spawn_blocking(move || running.0.wait().unwrap()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(status.success(), "{status}");
        assert!(!site.data().join("controller.sock").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_running_program_restores_to_the_same_with_a_later_epoch_and_no_tokens() {
    let site = Site::init();
    let admin = site.admin();
    let running = site.run();
    prepare(&admin).await;
    call(&admin, route_add("pods", "10.244.0.0/16", "a")).await;
    let token = Call::TokenCreate {
        namespace: label("prod"),
        edge: label("a"),
        ttl_secs: 600,
        rejoin: false,
    };
    call(&admin, token).await;
    let passphrase = site.file("passphrase");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let backup = site.file("backup");
    let (backup_text, phrase) = (backup.display().to_string(), passphrase.display().to_string());
    let output = site.command(&["backup", "--out", &backup_text, "--passphrase-file", &phrase]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&backup).unwrap();
    assert!(!text.contains("PRIVATE KEY"));
    let before = content(&admin).await;
    running.kill();

    let elsewhere = site.file("restored");
    let restore = ["restore", "--in", &backup_text, "--passphrase-file", &phrase];
    let output = program(&restore, &elsewhere);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(program(&restore, &elsewhere).status.code(), Some(4), "once is enough");
    let running = site.run_on(&elsewhere);
    let after = content(&admin).await;
    assert_eq!(after.0, before.0);
    assert!(after.1 > before.1, "the epoch: {} after {}", after.1, before.1);
    assert_eq!((before.2, after.2), (1, 0), "tokens");
    drop(running);

    // A backup that lacks its end, or was changed, is none.
    for damaged in [text[..text.len() - 90].to_owned(), text.replace("10.244.", "10.245.")] {
        let path = site.file("damaged");
        std::fs::write(&path, damaged).unwrap();
        let restore = ["restore", "--in", &path.display().to_string()];
        let output = program(&restore, &site.file("third"));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        assert!(!site.file("third").join("store.redb").exists());
    }
}

/// Edges, routes and namespaces; the epoch; the number of tokens.
async fn content(admin: &Client) -> (Vec<Reply>, u64, usize) {
    let mut rows = Vec::new();
    for list in [Call::NamespaceList, Call::RouteList { namespace: None }, Call::AdminList] {
        rows.extend(call(admin, list).await);
    }
    rows.extend(call(admin, Call::CertList { namespace: None }).await);
    let status = call(admin, Call::Status).await.remove(0);
    let Reply::Status(status) = status else { panic!("status") };
    let tokens = call(admin, Call::TokenList { namespace: None }).await.remove(0);
    let Reply::Tokens(tokens) = tokens else { panic!("tokens") };
    (rows, status.epoch, tokens.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_an_edge_is_in_sync_within_two_seconds_of_the_restart() {
    let site = Site::init();
    let admin = site.admin();
    let mut running = site.run();
    prepare(&admin).await;
    let token = Call::TokenCreate {
        namespace: label("prod"),
        edge: label("a"),
        ttl_secs: 600,
        rejoin: false,
    };
    let Reply::TokenMade(made) = call(&admin, token).await.remove(0) else { panic!("a token") };
    let identity = join(&made.token.parse().unwrap()).await.unwrap();
    let mut edge = Edge::connect(identity.client(), None);
    edge.until(|_| true).await;
    // Shorter than the time after which silence is death: only a reset tells the edge.
    for (round, outage) in [0, 1, 4].into_iter().enumerate() {
        running.kill();
        tokio::time::sleep(Duration::from_secs(outage)).await;
        running = site.run();
        let begun = Instant::now();
        edge.event(|seen| matches!(seen, Seen::Connected)).await;
        let name = format!("r{round}");
        let prefix: ipnet::IpNet = format!("10.{round}.0.0/16").parse().unwrap();
        call(&admin, route_add(&name, &prefix.to_string(), "a")).await;
        edge.until(|state| state.prefixes.contains_key(&prefix)).await;
        let took = begun.elapsed();
        eprintln!("{outage} s of outage, in sync {took:?} after the start");
        assert!(took < Duration::from_secs(2), "{took:?} after {outage} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_every_change_and_every_certificate_and_no_secret() {
    let site = Site::init();
    let admin = site.admin();
    let running = site.run();
    prepare(&admin).await;
    let token = Call::TokenCreate {
        namespace: label("prod"),
        edge: label("a"),
        ttl_secs: 600,
        rejoin: false,
    };
    let Reply::TokenMade(made) = call(&admin, token).await.remove(0) else { panic!("a token") };
    let identity = join(&made.token.parse().unwrap()).await.unwrap();
    let serial = identity.serial();
    call(&admin, Call::CertRevoke { serial, reason: "lost".to_owned() }).await;
    let wanted = [
        "call=\"edge-add\" admin=admin subject=prod/a".to_owned(),
        format!("subject=prod/a created={}", made.id),
        format!("serial=\"{serial}\""),
        format!("call=\"cert-revoke\" admin=admin subject={serial}"),
    ];
    let log = || std::fs::read_to_string(site.file("log")).unwrap();
    let all = async {
        while !wanted.iter().all(|part| log().contains(part)) {
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, all).await;
    assert!(found.is_ok(), "{}", log());
    assert!(!log().contains("cfj1."));
    drop(running);
}

#[test]
fn http_tells_health_readiness_and_figures() {
    let site = Site::init();
    let _running = site.run();
    let fetch = |path: &str| {
        let mut stream = TcpStream::connect(site.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(fetch("/healthz").starts_with("HTTP/1.1 200"));
    assert!(fetch("/readyz").ends_with("ready\n"));
    let metrics = fetch("/metrics");
    for name in ["cframe_controller_sessions 0", "cframe_controller_edges 0", "# EOF"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    // The first look at what expires is taken beside the start.
    let kinds = |metrics: &str, family: &str| {
        let of = |kind: &&&str| {
            metrics.contains(&format!("cframe_controller_{family}{{kind=\"{kind}\"}}"))
        };
        ["root", "issuer", "controller", "edge", "admin"].iter().filter(of).count()
    };
    let begun = Instant::now();
    loop {
        let metrics = fetch("/metrics");
        // There are no edges; each kind tells how many of it end soon.
        if kinds(&metrics, "expires_seconds") == 4 && kinds(&metrics, "expiring") == 5 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{metrics}");
        std::thread::yield_now();
    }
}

#[test]
fn errors_are_one_line_with_the_right_exit_code() {
    let site = Site::init();
    let context = site.context().display().to_string();
    let again = site.command(&[
        "init",
        "--mesh",
        "m.test",
        "--address",
        "192.0.2.1",
        "--admin-context",
        &context,
    ]);
    assert_eq!(again.status.code(), Some(4));
    let nowhere = program(&["run"], &site.file("nowhere"));
    assert_eq!(nowhere.status.code(), Some(3));
    let usage = site.command(&["init"]);
    assert_eq!(usage.status.code(), Some(2));
    let config = site.file("controller.toml");
    std::fs::write(&config, "data_dri = \"/x\"\n").unwrap();
    let slip = site.command(&["run", "--config", &config.display().to_string()]);
    assert_eq!(slip.status.code(), Some(1));
    for (output, part) in
        [(&again, "already"), (&nowhere, "cframe-controller init"), (&slip, "data_dri")]
    {
        let text = stderr(output);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("cframe-controller: ") && text.contains(part), "{text}");
    }
}

#[test]
fn init_and_admin_leave_what_else_is_in_the_file_of_contexts() {
    let site = Site::init();
    let other = r#"
current = "other"
[contexts.other]
mesh = "other"
controllers = ["192.0.2.1:58422"]
namespace = "prod"
certificate = "c"
key = "k"
trust = "t"
revoked_issuers = ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
later = 1
"#;
    let path = site.file("contexts.toml");
    let mut text = std::fs::read_to_string(site.context()).unwrap();
    text = text.replace("[contexts.\"m.test\"]", "[contexts.\"m.test\"]\nnamespace = \"lab\"");
    text = text.replace("current = \"m.test\"\n", other);
    cframe_pki::files::write_secret(&path, text.as_bytes()).unwrap();
    let read = || -> toml::Table { std::fs::read_to_string(&path).unwrap().parse().unwrap() };
    let before = read();
    let shown = path.display().to_string();
    let _running = site.run();
    let admin = site.command(&["admin", "--admin-context", &shown]);
    assert!(admin.status.success(), "{}", stderr(&admin));
    let new = ["init", "--mesh", "new.test", "--address", "192.0.2.2", "--admin-context", &shown];
    let output = program(&new, &site.file("new"));
    assert!(output.status.success(), "{}", stderr(&output));
    let after = read();
    assert_eq!(after["contexts"]["other"], before["contexts"]["other"]);
    assert_eq!(after["contexts"]["m.test"]["namespace"].as_str(), Some("lab"));
    assert_ne!(after["contexts"]["m.test"]["key"], before["contexts"]["m.test"]["key"]);
    assert_eq!(after["current"].as_str(), Some("new.test"));
}

#[test]
fn keys_are_private_and_a_looser_one_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::init();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&site.data()), 0o700);
    assert_eq!(mode(&site.context()), 0o600);
    for key in ["ca/root-key.pem", "ca/issuing-key.pem", "identity/key.pem", "store.redb"] {
        assert_eq!(mode(&site.data().join(key)), 0o600, "{key}");
    }
    let key = site.data().join("ca/issuing-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = site.command(&["run", "--metrics-listen", "off"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
}

#[test]
fn a_second_controller_on_one_directory_is_refused() {
    let site = Site::init();
    let _running = site.run();
    let output = site.command(&["run", "--metrics-listen", "off"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another process has it open"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_host_makes_an_admin_anew() {
    let site = Site::init();
    let context = site.file("again.toml");
    let shown = context.display().to_string();
    let make = ["admin", "--name", "admin", "--admin-context", &shown];
    assert_eq!(site.command(&make).status.code(), Some(6), "nobody is running");
    let _running = site.run();
    let output = site.command(&make);
    assert!(output.status.success(), "{}", stderr(&output));
    prepare(&admin_of(&context)).await;
    // The certificate that the admin had is good until it expires.
    call(&site.admin(), Call::Status).await;
}

#[test]
fn the_root_signs_a_request_and_says_for_which_key() {
    let site = Site::init();
    let key = cframe_pki::key::PrivateKey::generate().unwrap();
    let request = site.file("issuing.csr");
    std::fs::write(&request, key.csr_pem().unwrap()).unwrap();
    let (root, out) = (site.data().join("ca"), site.file("issuing.pem"));
    let sign = || {
        let mut command = Command::new(PROGRAM);
        command.args(["ca", "sign"]).arg(&request).arg("--root").arg(&root).arg("--out").arg(&out);
        command.output().unwrap()
    };
    let output = sign();
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains(&key.spki_sha256().to_string()), "{shown}");
    let certificate = cframe_pki::issue::read_certificate(&out).unwrap();
    let ca = cframe_pki::issue::IssuingCa::new(certificate, key).unwrap();
    assert_eq!(ca.mesh().as_str(), "m.test");
    assert_eq!(sign().status.code(), Some(4), "no file is replaced");
}

#[test]
fn nobody_joins_a_store_that_is_one_controllers_alone() {
    let site = Site::init();
    let join = ["init", "--join", "--address", "192.0.2.2"];
    let output = program(&join, &site.file("other"));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("etcd"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1);
    assert!(!site.file("other").exists());
    let output = program(&["init", "--address", "192.0.2.2"], &site.file("other"));
    assert_eq!(output.status.code(), Some(2), "a new mesh needs a name");
}

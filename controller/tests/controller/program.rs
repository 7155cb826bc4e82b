//! The real program: signals, kills, files, exit codes.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::{
    files,
    issue::{IssuingCa, read_certificate},
    key::PrivateKey,
};
use cframe_protocol::{
    session::{AdminConnection, Client},
    v1::{Call, Reply},
};
use ipnet::IpNet;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::support::{
    admin::{AdminCalls, call_on},
    calls::{route_add, token_create},
    credentials::admin_of,
    edge::{TestEdge, join},
    program::{ControllerProgram, failed, program, stderr, succeeded},
    wait::until,
};

async fn routes(admin: &AdminConnection) -> BTreeSet<String> {
    let replies = call_on(admin, Call::RouteList { namespace: None }).await.unwrap();
    let Some(Reply::Routes(rows)) = replies.into_iter().next() else { panic!("routes") };
    rows.into_iter().map(|row| row.name.to_string()).collect()
}

async fn add_edge_a(admin: &Client) {
    admin.add_namespace("prod").await;
    admin.add_edge("prod", "a", "172.16.0.0/16").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_mid_write_loses_nothing_that_was_acknowledged() {
    const KILLS: usize = 20;
    let program = ControllerProgram::initialised();
    let admin = program.admin();
    let mut running = program.run();
    add_edge_a(&admin).await;
    let mut acknowledged = BTreeSet::new();
    let mut attempted = BTreeSet::new();
    let mut slowest = Duration::ZERO;
    for round in 0..KILLS {
        let connection = Arc::new(admin.admin_connection().await);
        // Four writers at once, so that the store is writing when the kill comes.
        let (done, mut acks) = mpsc::unbounded_channel();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (connection, done) = (Arc::clone(&connection), done.clone());
                tokio::spawn(async move {
                    for index in 0..60 {
                        let name = format!("r{round}-{writer}-{index}");
                        let prefix = format!("10.{round}.{}.0/24", writer * 60 + index);
                        let _ = done.send((name.clone(), false));
                        if call_on(&connection, route_add(&name, &prefix, "a")).await.is_err() {
                            return;
                        }
                        let _ = done.send((name, true));
                    }
                })
            })
            .collect();
        drop(done);
        // The kill comes at another moment in each round. What was acknowledged until then counts.
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
                // They would wait until their connections time out. Their acknowledgements are in the channel.
                writers.iter().for_each(tokio::task::JoinHandle::abort);
            }
        }
        let start = Instant::now();
        running = program.run();
        let stored = routes(&admin.admin_connection().await).await;
        slowest = slowest.max(start.elapsed());
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "lost after kill {round}: {lost:?}");
        assert!(stored.is_subset(&attempted), "something that nobody wrote");
    }
    eprintln!(
        "{KILLS} kills, {} acknowledged writes; slowest start to answer {slowest:?}",
        acknowledged.len()
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_stops_it_within_two_seconds_even_with_open_connections() {
    let program = ControllerProgram::initialised();
    let admin = program.admin();
    for signal in [Signal::TERM, Signal::INT] {
        let running = program.run();
        let connection = admin.admin_connection().await;
        call_on(&connection, Call::Version).await.unwrap();
        let start = Instant::now();
        running.signal(signal);
        let status = running.ended().await;
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(status.success(), "{status}");
        assert!(!program.data().join("controller.sock").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_running_program_restores_to_the_same_with_a_later_epoch_and_no_tokens() {
    let program = ControllerProgram::initialised();
    let admin = program.admin();
    let running = program.run();
    add_edge_a(&admin).await;
    admin.change(route_add("pods", "10.244.0.0/16", "a")).await;
    admin.token("a").await;
    files::write_secret(&program.file("passphrase"), b"correct horse\n").unwrap();
    let (backup, passphrase) = (program.shown("backup"), program.shown("passphrase"));
    let save = ["backup", "--out", &backup, "--passphrase-file", &passphrase];
    succeeded(&program.command(&save));
    assert_eq!(mode(Path::new(&backup)), 0o600);
    let text = std::fs::read_to_string(&backup).unwrap();
    assert!(!text.contains("PRIVATE KEY"));
    let before = content(&admin).await;
    running.kill();

    let elsewhere = program.file("restored");
    let restore = ["restore", "--in", &backup, "--passphrase-file", &passphrase];
    succeeded(&program.command_in(&elsewhere, &restore));
    failed(&program.command_in(&elsewhere, &restore), 4, "");
    let running = program.run_in(&elsewhere);
    let after = content(&admin).await;
    assert_eq!(after.0, before.0);
    assert!(after.1 > before.1, "the epoch: {} after {}", after.1, before.1);
    assert_eq!((before.2, after.2), (1, 0), "tokens");
    drop(running);

    // A truncated or changed backup is refused.
    for damaged in [text[..text.len() - 90].to_owned(), text.replace("10.244.", "10.245.")] {
        let path = program.file("damaged");
        std::fs::write(&path, damaged).unwrap();
        let restore = ["restore", "--in", &path.display().to_string()];
        failed(&program.command_in(&program.file("third"), &restore), 1, "");
        assert!(!program.file("third").join("store.redb").exists());
    }
}

/// Namespaces, routes, admins and certificates; the epoch; the number of tokens.
async fn content(admin: &Client) -> (Vec<Reply>, u64, usize) {
    let mut rows = Vec::new();
    for list in [Call::NamespaceList, Call::RouteList { namespace: None }, Call::AdminList] {
        rows.extend(admin.call(list).await.unwrap());
    }
    rows.extend(admin.call(Call::CertList { namespace: None }).await.unwrap());
    (rows, admin.status().await.epoch, admin.tokens().await.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_an_edge_is_in_sync_within_two_seconds_of_the_restart() {
    let program = ControllerProgram::initialised();
    let admin = program.admin();
    let mut running = program.run();
    add_edge_a(&admin).await;
    let identity = join(&admin.token("a").await).await.unwrap();
    let mut edge = TestEdge::online(identity.client()).await;
    // Shorter than the idle timeout: the edge can only notice it by a reset.
    for (round, outage) in [0, 1, 4].into_iter().enumerate() {
        running.kill();
        tokio::time::sleep(Duration::from_secs(outage)).await;
        running = program.run();
        let start = Instant::now();
        edge.connected().await;
        let name = format!("r{round}");
        let prefix: IpNet = format!("10.{round}.0.0/16").parse().unwrap();
        admin.change(route_add(&name, &prefix.to_string(), "a")).await;
        edge.state(|state| state.prefixes.contains_key(&prefix)).await;
        let took = start.elapsed();
        eprintln!("{outage} s of outage, in sync {took:?} after the start");
        assert!(took < Duration::from_secs(2), "{took:?} after {outage} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_every_change_and_every_certificate_and_no_secret() {
    let program = ControllerProgram::initialised();
    let admin = program.admin();
    let running = program.run();
    add_edge_a(&admin).await;
    let Reply::TokenMade(made) = admin.reply(token_create("a", false)).await else {
        panic!("a token")
    };
    let identity = join(&made.token.parse().unwrap()).await.unwrap();
    let serial = identity.serial();
    admin.change(Call::CertRevoke { serial, reason: "lost".to_owned() }).await;
    let wanted = [
        "call=\"edge-add\" admin=admin subject=prod/a".to_owned(),
        format!("subject=prod/a created={}", made.id),
        format!("serial=\"{serial}\""),
        format!("call=\"cert-revoke\" admin=admin subject={serial}"),
    ];
    until(async || wanted.iter().all(|part| program.log().contains(part))).await;
    assert!(!program.log().contains("cfj1."));
    drop(running);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_serves_health_readiness_and_metrics() {
    let program = ControllerProgram::initialised();
    let _running = program.run();
    let fetch = |path: &str| program.fetch(path).unwrap();
    assert!(fetch("/healthz").starts_with("HTTP/1.1 200"));
    assert!(fetch("/readyz").ends_with("ready\n"));
    let metrics = fetch("/metrics");
    for name in ["cframe_controller_sessions 0", "cframe_controller_edges 0", "# EOF"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    // What expires is first checked in the background, a moment after the start.
    let kinds = |metrics: &str, family: &str| {
        let of = |kind: &&&str| {
            metrics.contains(&format!("cframe_controller_{family}{{kind=\"{kind}\"}}"))
        };
        ["root", "issuer", "controller", "edge", "admin"].iter().filter(of).count()
    };
    until(async || {
        let metrics = fetch("/metrics");
        // There are no edges, which have no next expiry then. Every kind has a number that expire soon.
        kinds(&metrics, "expires_seconds") == 4 && kinds(&metrics, "expiring") == 5
    })
    .await;
}

#[test]
fn errors_are_one_line_with_the_right_exit_code() {
    let program = ControllerProgram::initialised();
    let usage = program.command(&["init"]);
    assert_eq!(usage.status.code(), Some(2));
    let again = program.init();
    let nowhere = program.command_in(&program.file("nowhere"), &["run"]);
    std::fs::write(program.file("controller.toml"), "data_dri = \"/x\"\n").unwrap();
    let typo = program.command(&["run", "--config", &program.shown("controller.toml")]);
    for (output, code, part) in
        [(again, 4, "already"), (nowhere, 3, "cframe-controller init"), (typo, 1, "data_dri")]
    {
        failed(&output, code, part);
        assert!(stderr(&output).starts_with("cframe-controller: "), "{}", stderr(&output));
    }
}

#[test]
fn init_and_admin_change_nothing_else_in_the_file_of_contexts() {
    let program = ControllerProgram::initialised();
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
    let path = program.file("contexts.toml");
    let mut text = std::fs::read_to_string(program.context()).unwrap();
    text = text.replace("[contexts.\"m.test\"]", "[contexts.\"m.test\"]\nnamespace = \"lab\"");
    text = text.replace("current = \"m.test\"\n", other);
    files::write_secret(&path, text.as_bytes()).unwrap();
    let read = || -> toml::Table { std::fs::read_to_string(&path).unwrap().parse().unwrap() };
    let before = read();
    let shown = path.display().to_string();
    let _running = program.run();
    succeeded(&program.command(&["admin", "--admin-context", &shown]));
    let new = ["init", "--mesh", "new.test", "--address", "192.0.2.2", "--admin-context", &shown];
    succeeded(&program.command_in(&program.file("new"), &new));
    let after = read();
    assert_eq!(after["contexts"]["other"], before["contexts"]["other"]);
    assert_eq!(after["contexts"]["m.test"]["namespace"].as_str(), Some("lab"));
    assert_ne!(after["contexts"]["m.test"]["key"], before["contexts"]["m.test"]["key"]);
    assert_eq!(after["current"].as_str(), Some("new.test"));
}

#[test]
fn keys_are_private_and_one_that_others_may_read_is_refused() {
    let program = ControllerProgram::initialised();
    assert_eq!(mode(&program.data()), 0o700);
    assert_eq!(mode(&program.context()), 0o600);
    for key in ["ca/root-key.pem", "ca/issuing-key.pem", "identity/key.pem", "store.redb"] {
        assert_eq!(mode(&program.data().join(key)), 0o600, "{key}");
    }
    let key = program.data().join("ca/issuing-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = program.command(&["run", "--metrics-listen", "off"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
}

#[test]
fn a_second_controller_on_one_directory_is_refused() {
    let program = ControllerProgram::initialised();
    let _running = program.run();
    let output = program.command(&["run", "--metrics-listen", "off"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another process has it open"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_host_can_make_a_new_certificate_for_an_admin() {
    let program = ControllerProgram::initialised();
    let context = program.shown("again.toml");
    let make = ["admin", "--name", "admin", "--admin-context", &context];
    assert_eq!(program.command(&make).status.code(), Some(6), "no controller is running");
    let _running = program.run();
    succeeded(&program.command(&make));
    add_edge_a(&admin_of(Path::new(&context))).await;
    // The admin's previous certificate is valid until it expires.
    program.admin().status().await;
}

#[test]
fn the_root_signs_a_request_and_prints_its_key() {
    let program = ControllerProgram::initialised();
    let key = PrivateKey::generate().unwrap();
    let request = program.file("issuing.csr");
    std::fs::write(&request, key.csr_pem().unwrap()).unwrap();
    let (root, out) = (program.data().join("ca"), program.file("issuing.pem"));
    let sign = || {
        let mut command = self::program();
        command.args(["ca", "sign"]).arg(&request).arg("--root").arg(&root).arg("--out").arg(&out);
        command.output().unwrap()
    };
    let shown = succeeded(&sign());
    assert!(shown.contains(&key.spki_sha256().to_string()), "{shown}");
    let ca = IssuingCa::new(read_certificate(&out).unwrap(), key).unwrap();
    assert_eq!(ca.mesh().as_str(), "m.test");
    assert_eq!(sign().status.code(), Some(4), "no file is replaced");
}

#[test]
fn nobody_joins_a_mesh_with_an_embedded_store() {
    let program = ControllerProgram::initialised();
    let join = ["init", "--join", "--address", "192.0.2.2"];
    failed(&program.command_in(&program.file("other"), &join), 4, "etcd");
    assert!(!program.file("other").exists());
    let unnamed = ["init", "--address", "192.0.2.2"];
    let output = program.command_in(&program.file("other"), &unnamed);
    assert_eq!(output.status.code(), Some(2), "a new mesh needs a name");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

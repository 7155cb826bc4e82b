//! The real program on a real etcd.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use cframe_protocol::{
    session::Client,
    v1::{Call, Reply},
};
use cframe_store::Store;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::support::{
    admin::AdminCalls,
    calls::{edge_add, edge_del, label, route_add},
    etcd::{EtcdCluster, network},
    program::{ControllerProgram, etcd_flags, failed, stderr, succeeded},
    wait::until,
    writes::{PREFIX, key},
};

/// Adds edge `a` and routes to it.
async fn add_routes(admin: &Client, routes: usize) {
    admin.add_namespace("prod").await;
    admin.add_edge("prod", "a", "172.16.0.0/16").await;
    for index in 0..routes {
        let prefix = format!("10.{}.{}.0/24", index / 256, index % 256);
        admin.change(route_add(&format!("r{index}"), &prefix, "a")).await;
    }
}

/// How many keys there are below one.
async fn count(cluster: &EtcdCluster, below: &str) -> usize {
    cluster.store().list(&key(below)).await.unwrap().entries.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_in_etcd_is_initialised_once_served_and_readable_by_people() {
    let cluster = EtcdCluster::start(3).await;
    let program = ControllerProgram::on_etcd(&cluster.endpoints());
    succeeded(&program.init());
    let other = ControllerProgram::on_etcd(&cluster.endpoints());
    failed(&other.init(), 4, "there is a mesh already");
    assert!(!other.file("data/ca").exists(), "no keys without a mesh");
    failed(&program.init(), 4, "already");

    let _running = program.spawn();
    program.ready().await;
    let admin = program.admin();
    add_routes(&admin, 1).await;
    let status = admin.status().await;
    assert_eq!(status.controllers[0].store, "etcd: ok (3 of 3 members)");
    let metrics = program.fetch("/metrics").unwrap();
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
async fn a_controller_waits_for_its_etcd_and_reports_it() {
    let mut cluster = EtcdCluster::start(1).await;
    let program = ControllerProgram::on_etcd(&cluster.endpoints());
    succeeded(&program.init());
    cluster.members[0].kill();
    let running = program.spawn();
    until(async || {
        program.fetch("/readyz").is_some_and(|answer| {
            answer.starts_with("HTTP/1.1 503") && answer.contains("does not answer")
        })
    })
    .await;
    assert!(program.fetch("/healthz").unwrap().starts_with("HTTP/1.1 200"));
    let log = program.log();
    assert_eq!(log.matches("the store does not answer").count(), 1, "{log}");
    assert!(log.contains(&cluster.endpoints()[0]), "{log}");
    cluster.members[0].start();
    program.ready().await;
    program.admin().status().await;
    drop(running);

    // SIGTERM stops it while it waits, too.
    cluster.members[0].kill();
    let running = program.spawn();
    until(async || program.log().contains("does not answer")).await;
    running.signal(Signal::TERM);
    let ended = timeout(Duration::from_secs(2), running.ended()).await.expect("in time");
    assert!(ended.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_edge_and_a_large_namespace_are_removed_in_steps() {
    let cluster = EtcdCluster::start(1).await;
    let program = ControllerProgram::on_etcd(&cluster.endpoints());
    succeeded(&program.init());
    let _running = program.spawn();
    program.ready().await;
    let admin = program.admin();
    add_routes(&admin, 300).await;
    match admin.dry_run(edge_del("a")).await.unwrap().remove(0) {
        Reply::Changed(changed) => {
            assert!(changed.warnings[0].contains("300 routes"), "{:?}", changed.warnings);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(count(&cluster, "routes/").await, 300);
    admin.change(edge_del("a")).await;
    assert_eq!((count(&cluster, "routes/").await, count(&cluster, "edges/").await), (0, 0));

    for index in 0..150 {
        let (edge, route) = (format!("e{index}"), format!("r{index}"));
        admin.change(edge_add("prod", &edge, &format!("10.0.{index}.0/24"))).await;
        admin.change(route_add(&route, &format!("10.1.{index}.0/24"), &edge)).await;
    }
    admin.change(Call::NamespaceDel { name: label("prod"), cascade: true }).await;
    for below in ["routes/", "edges/", "namespaces/"] {
        assert_eq!(count(&cluster, below).await, 0, "{below}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_moves_a_mesh_from_the_embedded_store_to_etcd() {
    let embedded = ControllerProgram::new();
    succeeded(&embedded.init());
    let running = embedded.spawn();
    embedded.ready().await;
    let admin = embedded.admin();
    add_routes(&admin, 300).await;
    let epoch = admin.status().await.epoch;
    let backup = embedded.shown("backup");
    succeeded(&embedded.command(&["backup", "--out", &backup]));
    drop(running);

    let cluster = EtcdCluster::start(1).await;
    let mut moved = embedded;
    moved.store_flags = etcd_flags(&cluster.endpoints());
    // What an interrupted restore leaves: the next restore removes it.
    let left = "/cframe/v1/routes/prod/left-behind";
    cluster.etcdctl(&["put", left, "{\"schema\":1,\"prefix\":\"10.9.9.0/24\",\"edge\":\"a\"}"]);
    failed(&moved.command(&["run", "--metrics-listen", "off"]), 3, "no mesh");
    succeeded(&moved.command(&["restore", "--in", &backup]));
    assert_eq!(count(&cluster, "routes/").await, 300);
    assert!(!cluster.etcdctl(&["get", "--prefix", "/cframe"]).contains("left-behind"));
    failed(&moved.command(&["restore", "--in", &backup]), 4, "has a mesh already");

    let running = moved.spawn();
    moved.ready().await;
    let after = admin.status().await;
    assert!(after.epoch > epoch, "{} after {epoch}", after.epoch);
    assert!(after.controllers[0].store.starts_with("etcd: ok"));
    drop(running);
    // A backup needs no running controller.
    let again = moved.shown("again");
    succeeded(&moved.command(&["backup", "--out", &again]));
    // They have the same records, but for the audit log, which has grown.
    let size = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter(|line| line.contains("/cframe/v1/") && !line.contains("/cframe/audit/"))
            .count()
    };
    assert_eq!(size(&again), size(&backup));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_init_is_repeated_or_found_to_be_done() {
    // etcd does not answer: the keys are made, and the mesh is not.
    let nowhere = format!("http://{}.1:2379", network());
    let mut program = ControllerProgram::on_etcd(&[nowhere]);
    failed(&program.init(), 1, "does not answer");

    let cluster = EtcdCluster::start(1).await;
    program.store_flags = etcd_flags(&cluster.endpoints());
    succeeded(&program.init());
    // As if it had been killed between the commit and the end of the command.
    let marker = program.file("data/init-unfinished");
    std::fs::write(&marker, "").unwrap();
    std::fs::remove_file(program.file("admin.toml")).unwrap();
    failed(&program.command(&["run", "--metrics-listen", "off"]), 3, "init");
    failed(&program.init(), 1, "made the mesh");
    let _running = program.spawn();
    program.ready().await;
    succeeded(&program.command(&["admin", "--admin-context", &program.shown("admin.toml")]));
    program.admin().status().await;

    // As if it had been killed between the keys and the commit.
    let other = EtcdCluster::start(1).await;
    let half = ControllerProgram::on_etcd(&other.endpoints());
    for directory in ["data", "data/ca"] {
        std::fs::create_dir(half.file(directory)).unwrap();
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(half.file(directory), private).unwrap();
    }
    std::fs::write(half.file("data/ca/issuing-key.pem"), "of no mesh").unwrap();
    failed(&half.init(), 4, "already");
    std::fs::write(half.file("data/init-unfinished"), "").unwrap();
    succeeded(&half.init());
    assert!(!half.file("data/init-unfinished").exists());
}

#[test]
fn errors_in_the_configuration_are_named_at_once() {
    let mut program = ControllerProgram::new();
    program.store_flags = vec!["--store".to_owned(), "etcd".to_owned()];
    failed(&program.init(), 1, "--etcd-endpoint");
    let mut typo = ControllerProgram::on_etcd(&["http://10.0.0.1:port".to_owned()]);
    failed(&typo.init(), 1, "10.0.0.1:port");
    let key = typo.file("key.pem");
    cframe_pki::files::write_secret(&key, b"no key").unwrap();
    let shown = key.display().to_string();
    typo.store_flags = etcd_flags(&["https://127.0.0.1:1".to_owned()]);
    for flag in ["--etcd-ca", "--etcd-cert", "--etcd-key"] {
        typo.store_flags.extend([flag.to_owned(), shown.clone()]);
    }
    failed(&typo.init(), 1, "127.0.0.1:1");
    let password = program.file("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    program.store_flags.extend(
        ["--etcd-endpoint", "http://127.0.0.1:1", "--etcd-username", "u", "--etcd-password-file"]
            .map(str::to_owned),
    );
    program.store_flags.push(password.display().to_string());
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = program.init();
    failed(&output, 1, "chmod 600");
    assert!(!stderr(&output).contains("hunter2"));
}

//! The audit log: one record for each call, atomic with what it changes, bounded, and without secrets.

mod reading;
mod secrets;

use std::sync::atomic::Ordering;

use cframe_controller::{
    audit::{self, Retention},
    backup,
};
use cframe_protocol::{
    session::Command,
    v1::{AuditQuery, Call, ErrorCode, Reply},
};
use cframe_store::{Store, redb::Redb};
use serde_json::{Value, json};

use crate::support::{
    admin::{AdminCalls, call_on, refused},
    calls::{edge_add, edge_del, edge_describe, label, route_add},
    controller::TestController,
    credentials::new_csr,
    edge::{SessionEvent, TestEdge, join},
    wait::until,
};

/// All records, the oldest first. The first is that of `init`.
async fn records(admin: &impl AdminCalls) -> Vec<Value> {
    records_of(admin, AuditQuery::default()).await
}

async fn records_of(admin: &impl AdminCalls, query: AuditQuery) -> Vec<Value> {
    let rows = admin.audit(query).await;
    assert!(rows.is_sorted_by(|one, next| one.id < next.id), "{rows:?}");
    rows.iter().map(|row| serde_json::from_str(&row.record).unwrap()).collect()
}

/// Waits for the records of a controller, one after the other.
struct NewRecords<'a> {
    controller: &'a TestController,
    /// How many records there are so far.
    count: usize,
}

impl<'a> NewRecords<'a> {
    async fn from_now(controller: &'a TestController) -> Self {
        Self { controller, count: records(controller).await.len() }
    }

    /// Waits for the next record, which must be the only new one. Some are written a moment after their call.
    async fn next(&mut self) -> Value {
        self.count += 1;
        let mut all = Vec::new();
        until(async || {
            all = records(self.controller).await;
            all.len() >= self.count
        })
        .await;
        assert_eq!(all.len(), self.count, "{all:#?}");
        all.pop().unwrap()
    }
}

/// A call, its subject, the keys that it writes, and the value of the last key before and after.
type Case = (Call, &'static str, Vec<&'static str>, Value, Value);

fn cases() -> Vec<Case> {
    let (prod, a) = (label("prod"), label("a"));
    vec![
        (
            Call::NamespaceSet { name: prod.clone(), tun_mtu: Some(1300), congestion: None },
            "prod",
            vec!["namespaces/prod"],
            json!({ "settings": { "tun_mtu": 1400 } }),
            json!({ "settings": { "tun_mtu": 1300 } }),
        ),
        (
            edge_add("prod", "a", "10.1.0.0/16"),
            "prod/a",
            vec!["namespaces/prod", "edges/prod/a"],
            Value::Null,
            json!({ "description": "", "cidrs": ["10.1.0.0/16"], "endpoints": ["a.example.com:58423"], "membership": "new" }),
        ),
        (
            Call::EdgeSet {
                namespace: prod.clone(),
                name: a.clone(),
                cidrs: None,
                endpoints: Some(Vec::new()),
                description: None,
                no_link_to: None,
            },
            "prod/a",
            vec!["namespaces/prod", "edges/prod/a"],
            json!({ "endpoints": ["a.example.com:58423"] }),
            json!({ "endpoints": [] }),
        ),
        (
            route_add("r", "10.244.0.0/16", "a"),
            "prod/r",
            vec!["namespaces/prod", "routes/prod/r"],
            Value::Null,
            json!({ "prefix": "10.244.0.0/16", "edge": "a" }),
        ),
        (
            Call::RouteDel { namespace: prod.clone(), name: label("r") },
            "prod/r",
            vec!["namespaces/prod", "routes/prod/r"],
            json!({ "prefix": "10.244.0.0/16", "edge": "a" }),
            Value::Null,
        ),
        (
            Call::EdgeDel { namespace: prod.clone(), name: a },
            "prod/a",
            vec!["namespaces/prod", "edges/prod/a"],
            json!({ "description": "", "cidrs": ["10.1.0.0/16"], "endpoints": [], "membership": "new" }),
            Value::Null,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_makes_one_record_that_says_what_it_changed() {
    let controller = TestController::start().await;
    controller.add_namespace("prod").await;
    let mut log = NewRecords::from_now(&controller).await;
    assert_eq!(log.count, 2, "init, and the namespace");
    for (call, subject, mut keys, before, after) in cases() {
        let name = call.name();
        // First a dry run, which changes nothing and records the same changes.
        controller.dry_run(call.clone()).await.unwrap();
        let rehearsed = log.next().await;
        assert_eq!(rehearsed["dry_run"], true, "{name}");
        controller.change(call).await;
        let record = log.next().await;
        assert_eq!(record["changes"], rehearsed["changes"], "{name}");
        assert_eq!(record.get("dry_run"), None);
        assert_eq!(record["call"], name);
        assert_eq!(
            (&record["who"], &record["subject"], &record["namespace"], &record["result"]),
            (&json!("admin/root"), &json!(subject), &json!("prod"), &json!("ok"))
        );
        assert_eq!(record["controller"], "controller");
        assert!(record["from"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(record["serial"].as_str().unwrap().len(), 32);
        let now = cframe_pki::unix_now() * 1000;
        assert!(record["time"].as_u64().unwrap().abs_diff(now) < 60_000);
        let changes = record["changes"].as_array().unwrap();
        let mut written: Vec<&str> =
            changes.iter().map(|change| change["key"].as_str().unwrap()).collect();
        let wanted = *keys.last().unwrap();
        written.sort_unstable();
        keys.sort_unstable();
        assert_eq!(written, keys, "{name}");
        let change = changes.iter().find(|change| change["key"] == wanted).unwrap();
        for (is, expected) in [(&change["before"], before), (&change["after"], after)] {
            match expected.get("settings") {
                Some(settings) => assert_eq!(&is["settings"], settings, "{name}"),
                None => assert_eq!(*is, expected, "{name}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_renewals_and_forbidden_calls_of_an_edge_are_recorded_with_who_and_from_where() {
    let controller = TestController::with_edges(&["a"]).await;
    let token = controller.token("a").await;
    let made = records(&controller).await.pop().unwrap();
    let id =
        made["changes"][0]["key"].as_str().unwrap().strip_prefix("tokens/").unwrap().to_owned();
    assert_eq!(made["changes"][0]["after"].get("secret_hash"), None);
    let identity = join(&token).await.unwrap();
    let joined = records(&controller).await.pop().unwrap();
    assert_eq!(
        (&joined["call"], &joined["who"], &joined["subject"]),
        (&json!("join"), &json!(format!("token/{id}")), &json!("prod/a"))
    );
    assert!(joined["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    let keys: Vec<&str> =
        joined["changes"].as_array().unwrap().iter().map(|c| c["key"].as_str().unwrap()).collect();
    // With its first certificate the edge becomes a member, which other edges get to know.
    let member = ["edges/prod/a".to_owned(), "namespaces/prod".to_owned()];
    let given = [format!("tokens/{id}"), format!("certs/{}", identity.serial())];
    assert_eq!(keys, [member, given].concat());
    let mut log = NewRecords::from_now(&controller).await;

    assert!(join(&token).await.is_err());
    let again = log.next().await;
    assert_eq!((&again["call"], &again["result"]), (&json!("join"), &json!("not_allowed")));
    assert!(again["message"].as_str().unwrap().contains("was used"), "{again}");

    let mut edge = TestEdge::online(identity.client()).await;
    edge.commands.send(Command::Renew { csr: new_csr() }).await.unwrap();
    edge.event(|event| matches!(event, SessionEvent::Renewed(Ok(_)))).await;
    let renewed = log.next().await;
    assert_eq!(
        (&renewed["call"], &renewed["who"], &renewed["serial"]),
        (&json!("renewal"), &json!("edge/prod/a"), &json!(identity.serial().to_string()))
    );

    // An edge may not even read.
    let refusal = identity.client().refusal(Call::Status).await;
    assert_eq!(refusal.code, ErrorCode::NotAllowed);
    let tried = log.next().await;
    assert_eq!(
        (&tried["call"], &tried["who"], &tried["result"]),
        (&json!("status"), &json!("edge/prod/a"), &json!("not_allowed"))
    );
    let refusal = identity.client().refusal(Call::Audit(AuditQuery::default())).await;
    assert_eq!(refusal.code, ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_backups_are_recorded_and_reads_are_not() {
    let controller = TestController::with_edges(&["a"]).await;
    let mut log = NewRecords::from_now(&controller).await;
    controller.refusal(edge_add("prod", "b", "10.1.0.0/24")).await;
    let record = log.next().await;
    assert_eq!((&record["result"], &record["subject"]), (&json!("conflict"), &json!("prod/b")));
    assert!(record["message"].as_str().unwrap().contains("10.1.0.0/16"), "{record}");
    assert_eq!(record.get("changes"), None);
    // A change that changes nothing.
    controller
        .change(Call::NamespaceSet { name: label("prod"), tun_mtu: Some(1400), congestion: None })
        .await;
    assert_eq!(log.next().await["result"], "ok");
    controller.call(Call::Backup).await.unwrap();
    assert_eq!(log.next().await["call"], "backup");
    // A whole token given as its id is not repeated, neither in the record nor in the answer.
    let refusal = controller.refusal(Call::TokenRevoke { id: "cfj1.c2VjcmV0".into() }).await;
    assert!(!refusal.to_string().contains("c2VjcmV0"), "{refusal}");
    let record = log.next().await;
    assert!(!record.to_string().contains("c2VjcmV0"), "{record}");
    let reader = controller.enrol_admin("reader", true).await.unwrap().client();
    log.next().await;
    for read in [Call::Status, Call::EdgeList { namespace: None }, Call::Version] {
        reader.call(read).await.unwrap();
    }
    let missing = Call::EdgeShow { namespace: label("prod"), name: label("zz") };
    reader.refusal(missing).await;
    // A read-only admin may read the audit log.
    assert_eq!(records(&reader).await.len(), log.count);
    reader.refusal(edge_del("a")).await;
    let record = log.next().await;
    assert_eq!(
        (&record["who"], &record["result"]),
        (&json!("admin/reader"), &json!("not_allowed"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_store_refuses_leaves_nothing_but_a_later_record_of_the_refusal() {
    let controller = TestController::with_edges(&["a"]).await;
    let before = records(&controller).await;
    let mut log = NewRecords::from_now(&controller).await;
    controller.faults.disk_full.store(true, Ordering::SeqCst);
    assert_eq!(
        controller.refusal(route_add("r", "10.244.0.0/16", "a")).await.code,
        ErrorCode::StoreFull
    );
    assert_eq!(records(&controller).await, before);
    controller.faults.disk_full.store(false, Ordering::SeqCst);
    // The refusal is recorded when there is room again.
    let record = log.next().await;
    assert_eq!((&record["call"], &record["result"]), (&json!("route-add"), &json!("store_full")));
    assert_eq!(record.get("changes"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_its_record_are_one_revision() {
    let mut controller = TestController::with_edges(&["a"]).await;
    controller.change(route_add("r", "10.244.0.0/16", "a")).await;
    controller.stop().await;
    let store = controller.data.open_store().await.unwrap();
    let modified = async |prefix: &str| {
        let view = store.list(prefix).await.unwrap();
        view.entries.last().map(|entry| entry.modified).unwrap()
    };
    let route = modified("/cframe/v1/routes/prod/r").await;
    assert_eq!(modified("/cframe/v1/namespaces/prod").await, route);
    assert_eq!(modified(audit::ROOT).await, route);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_refused_calls_a_second_make_few_records() {
    let mut controller = TestController::with_edges(&["a"]).await;
    let before = records(&controller).await.len();
    let admin = controller.admin_connection().await;
    for _ in 0..1000 {
        refused(call_on(&admin, edge_add("prod", "a", "10.1.0.0/16")).await);
    }
    // What succeeds is recorded in any case.
    controller.change(route_add("r", "10.244.0.0/16", "a")).await;
    drop(admin);
    controller.restart().await;
    let after = records(&controller).await;
    let refused = after.iter().filter(|record| record["result"] == "conflict").count();
    assert!((20..=22).contains(&refused), "{refused} records of refusals");
    let left_out: u64 = after.iter().filter_map(|record| record["left_out"].as_u64()).sum();
    assert_eq!(left_out as usize, 1000 - refused);
    assert_eq!(after.len(), before + refused + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_trimmed_to_its_limit_while_it_is_written() {
    let mut controller = TestController::with_edges(&["a"]).await;
    controller.keep = Retention { records: 100, ..Retention::default() };
    controller.restart().await;
    for index in 0..150 {
        controller.change(edge_describe("a", &index.to_string())).await;
    }
    // It is trimmed again when it is a tenth over its limit.
    until(async || records(&controller).await.len() <= 110).await;
    let kept = records(&controller).await;
    assert!(kept.len() >= 100, "{}", kept.len());
    let newest = &kept.last().unwrap()["changes"][0]["after"]["description"];
    assert_eq!(newest, "149");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_has_the_log_and_says_that_it_was_restored() {
    let controller = TestController::with_edges(&["a"]).await;
    let before = records(&controller).await;
    let Reply::Chunk(dump) = controller.reply(Call::Backup).await else { panic!("a backup") };
    let dump = backup::parse(&dump).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Redb::open(&path).unwrap();
    let act = audit::Act::new(audit::Who::Local(0), "restore");
    let record = audit::Journal::new(label("c2")).op_now(&act);
    backup::restore(&store, &dump, 1, record).await.unwrap();
    let restored: Vec<Value> = store
        .list(audit::ROOT)
        .await
        .unwrap()
        .entries
        .iter()
        .map(|entry| {
            let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
            assert_eq!(value["schema"], 1);
            value.as_object_mut().unwrap().remove("schema");
            value
        })
        .collect();
    let without_schema = before.into_iter().map(|mut record| {
        record.as_object_mut().unwrap().remove("schema");
        record
    });
    let (last, rest) = restored.split_last().unwrap();
    assert_eq!(rest, without_schema.collect::<Vec<_>>());
    assert_eq!((&last["call"], &last["controller"]), (&json!("restore"), &json!("c2")));
    store.close().await;
}

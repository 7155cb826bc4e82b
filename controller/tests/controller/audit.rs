//! The audit log: one record for each call, atomic with what it changes, bounded, and without secrets.

mod reading;
mod secrets;

use std::sync::Arc;

use cframe_controller::audit::{self, Retention};
use cframe_pki::{CertificateDer, key::PrivateKey, tls::Credentials};
use cframe_protocol::{
    session::{AdminConnection, CallFailure, Client, Command, admin_call},
    v1::{AuditQuery, Call, ErrorCode, Reply},
};
use cframe_store::Store;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::world::{
    Edge, PATIENCE, Seen, World, client, edge_add, join, label, refused, route_add,
};

/// The records as they are, the oldest first; with `init`'s.
async fn records(world: &World) -> Vec<Value> {
    ask(&world.admin, AuditQuery::default()).await
}

async fn ask(admin: &Client, query: AuditQuery) -> Vec<Value> {
    let replies = admin_call(admin, Call::Audit(query), false, PATIENCE).await.unwrap();
    let rows = replies.into_iter().flat_map(|reply| match reply {
        Reply::Audit(rows) => rows,
        other => panic!("{other:?}"),
    });
    let records: Vec<_> = rows.collect();
    assert!(records.is_sorted_by(|one, next| one.id < next.id), "{records:?}");
    records.iter().map(|row| serde_json::from_str(&row.record).unwrap()).collect()
}

/// Waits until there are so many records, for some come a moment later, and gives the last of them.
async fn last(world: &World, count: usize) -> Value {
    let found = timeout(PATIENCE, async {
        loop {
            let mut records = records(world).await;
            if records.len() >= count {
                assert_eq!(records.len(), count, "{records:#?}");
                return records.pop().unwrap();
            }
        }
    });
    found.await.expect("the record in time")
}

fn csr() -> Vec<u8> {
    PrivateKey::generate().unwrap().csr().unwrap().to_vec()
}

async fn admin(world: &World, name: &str, read_only: bool) -> Client {
    let key = PrivateKey::generate().unwrap();
    let call = Call::AdminAdd { name: label(name), csr: key.csr().unwrap().to_vec(), read_only };
    let Reply::AdminEnrolled(made) = world.reply(call).await else { panic!("an admin") };
    let chain = made.chain.into_iter().map(CertificateDer::from).collect();
    client(&Credentials { chain, key }, made.trust, made.controllers)
}

/// A call, what it is about, the keys that it writes in that order, and the last of them before and after.
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
            json!({ "description": "", "cidrs": ["10.1.0.0/16"], "endpoints": ["a.example.com:58423"] }),
        ),
        (
            Call::EdgeSet {
                namespace: prod.clone(),
                name: a.clone(),
                cidrs: None,
                endpoints: Some(Vec::new()),
                description: None,
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
            json!({ "description": "", "cidrs": ["10.1.0.0/16"], "endpoints": [] }),
            Value::Null,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_makes_one_record_that_says_what_it_changed() {
    let world = World::start().await;
    world.add_namespace("prod").await;
    let mut count = records(&world).await.len();
    assert_eq!(count, 2, "init, and the namespace");
    for (call, subject, mut keys, before, after) in cases() {
        let name = call.name();
        // A dry run first, which changes nothing and says the same.
        admin_call(&world.admin, call.clone(), true, PATIENCE).await.unwrap();
        count += 1;
        let rehearsed = last(&world, count).await;
        assert_eq!(rehearsed["dry_run"], true, "{name}");
        world.change(call).await;
        count += 1;
        let record = last(&world, count).await;
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
async fn a_join_a_renewal_and_what_an_edge_may_not_are_recorded_with_who_and_from_where() {
    let world = World::with_edges(&["a"]).await;
    let token = world.token("prod", "a", false).await;
    let made = records(&world).await.pop().unwrap();
    let id =
        made["changes"][0]["key"].as_str().unwrap().strip_prefix("tokens/").unwrap().to_owned();
    assert_eq!(made["changes"][0]["after"].get("secret_hash"), None);
    let identity = join(&token).await.unwrap();
    let joined = records(&world).await.pop().unwrap();
    assert_eq!(
        (&joined["call"], &joined["who"], &joined["subject"]),
        (&json!("join"), &json!(format!("token/{id}")), &json!("prod/a"))
    );
    assert!(joined["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    let keys: Vec<&str> =
        joined["changes"].as_array().unwrap().iter().map(|c| c["key"].as_str().unwrap()).collect();
    assert_eq!(keys, [format!("tokens/{id}"), format!("certs/{}", identity.serial())]);
    let mut count = records(&world).await.len();

    assert!(join(&token).await.is_err());
    count += 1;
    let again = last(&world, count).await;
    assert_eq!((&again["call"], &again["result"]), (&json!("join"), &json!("not_allowed")));
    assert!(again["message"].as_str().unwrap().contains("was used"), "{again}");

    let mut edge = Edge::connect(identity.client(), None);
    edge.until(|_| true).await;
    edge.commands.send(Command::Renew { csr: csr() }).await.unwrap();
    edge.event(|seen| matches!(seen, Seen::Renewed(Ok(_)))).await;
    count += 1;
    let renewed = last(&world, count).await;
    assert_eq!(
        (&renewed["call"], &renewed["who"], &renewed["serial"]),
        (&json!("renewal"), &json!("edge/prod/a"), &json!(identity.serial().to_string()))
    );

    // An edge may not even look.
    let refusal = refused(admin_call(&identity.client(), Call::Status, false, PATIENCE).await);
    assert_eq!(refusal.code, ErrorCode::NotAllowed);
    count += 1;
    let tried = last(&world, count).await;
    assert_eq!(
        (&tried["call"], &tried["who"], &tried["result"]),
        (&json!("status"), &json!("edge/prod/a"), &json!("not_allowed"))
    );
    assert_eq!(
        refused(
            admin_call(&identity.client(), Call::Audit(AuditQuery::default()), false, PATIENCE)
                .await
        )
        .code,
        ErrorCode::NotAllowed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_only_handed_out_is_recorded_and_looking_is_not() {
    let world = World::with_edges(&["a"]).await;
    let mut count = records(&world).await.len();
    world.refusal(edge_add("prod", "b", "10.1.0.0/24")).await;
    count += 1;
    let record = last(&world, count).await;
    assert_eq!((&record["result"], &record["subject"]), (&json!("conflict"), &json!("prod/b")));
    assert!(record["message"].as_str().unwrap().contains("10.1.0.0/16"), "{record}");
    assert_eq!(record.get("changes"), None);
    // Without effect.
    world
        .change(Call::NamespaceSet { name: label("prod"), tun_mtu: Some(1400), congestion: None })
        .await;
    count += 1;
    assert_eq!(last(&world, count).await["result"], "ok");
    world.call(Call::Backup).await.unwrap();
    count += 1;
    assert_eq!(last(&world, count).await["call"], "backup");
    // A whole token in the place of its id is not repeated, neither here nor in the answer.
    let refusal = world.refusal(Call::TokenRevoke { id: "cfj1.c2VjcmV0".into() }).await;
    assert!(!refusal.to_string().contains("c2VjcmV0"), "{refusal}");
    count += 1;
    let record = last(&world, count).await;
    assert!(!record.to_string().contains("c2VjcmV0"), "{record}");
    let reader = admin(&world, "reader", true).await;
    count += 1;
    for look in [Call::Status, Call::EdgeList { namespace: None }, Call::Version] {
        admin_call(&reader, look, false, PATIENCE).await.unwrap();
    }
    let missing = Call::EdgeShow { namespace: label("prod"), name: label("zz") };
    refused(admin_call(&reader, missing, false, PATIENCE).await);
    // A reader reads this too.
    assert_eq!(ask(&reader, AuditQuery::default()).await.len(), count);
    let edge_del = Call::EdgeDel { namespace: label("prod"), name: label("a") };
    refused(admin_call(&reader, edge_del, false, PATIENCE).await);
    count += 1;
    let record = last(&world, count).await;
    assert_eq!(
        (&record["who"], &record["result"]),
        (&json!("admin/reader"), &json!("not_allowed"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_store_refuses_leaves_no_trace_of_itself() {
    use std::sync::atomic::Ordering;
    let world = World::with_edges(&["a"]).await;
    let before = records(&world).await;
    world.full.store(true, Ordering::SeqCst);
    assert_eq!(
        world.refusal(route_add("r", "10.244.0.0/16", "a")).await.code,
        ErrorCode::StoreFull
    );
    assert_eq!(records(&world).await, before);
    world.full.store(false, Ordering::SeqCst);
    // What was refused is written when there is room again.
    let record = last(&world, before.len() + 1).await;
    assert_eq!((&record["call"], &record["result"]), (&json!("route-add"), &json!("store_full")));
    assert_eq!(record.get("changes"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_and_its_record_are_one_revision() {
    let mut world = World::with_edges(&["a"]).await;
    world.change(route_add("r", "10.244.0.0/16", "a")).await;
    world.stop().await;
    let store = world.data.open_store().await.unwrap();
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
async fn a_thousand_refused_calls_a_second_are_few_records() {
    let mut world = World::with_edges(&["a"]).await;
    let before = records(&world).await.len();
    let admin = Arc::new(AdminConnection::connect(&world.admin).await.unwrap());
    for _ in 0..1000 {
        let call = edge_add("prod", "a", "10.1.0.0/16");
        let asked = admin.call(call, false).await.unwrap().collect().await;
        assert!(matches!(asked, Err(CallFailure::Refused(_))));
    }
    // What is done is recorded all the same.
    world.change(route_add("r", "10.244.0.0/16", "a")).await;
    drop(admin);
    world.restart().await;
    let after = records(&world).await;
    let of = |result: &str| after.iter().filter(|record| record["result"] == *result).count();
    let refused = of("conflict");
    assert!((20..=22).contains(&refused), "{refused} records of refusals");
    let left_out: u64 = after.iter().filter_map(|record| record["left_out"].as_u64()).sum();
    assert_eq!(left_out as usize, 1000 - refused);
    assert_eq!(after.len(), before + refused + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_trimmed_to_its_number_while_it_is_written() {
    let mut world = World::with_edges(&["a"]).await;
    world.keep = Retention { records: 100, ..Retention::default() };
    world.restart().await;
    for index in 0..150 {
        let description = Some(format!("{index}"));
        world
            .change(Call::EdgeSet {
                namespace: label("prod"),
                name: label("a"),
                cidrs: None,
                endpoints: None,
                description,
            })
            .await;
    }
    let trimmed = timeout(PATIENCE, async {
        // At a tenth more it is trimmed again.
        while records(&world).await.len() > 110 {
            tokio::task::yield_now().await;
        }
    });
    trimmed.await.expect("trimmed in time");
    let kept = records(&world).await;
    assert!(kept.len() >= 100, "{}", kept.len());
    let newest = &kept.last().unwrap()["changes"][0]["after"]["description"];
    assert_eq!(newest, "149");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_has_the_log_and_says_that_it_was_restored() {
    let world = World::with_edges(&["a"]).await;
    let before = records(&world).await;
    let Reply::Chunk(dump) = world.reply(Call::Backup).await else { panic!("a backup") };
    let dump = cframe_controller::backup::parse(&dump).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = cframe_store::redb::Redb::open(&path).unwrap();
    let act = audit::Act::new(audit::Who::Local(0), "restore");
    let record = audit::Journal::new(label("c2")).op_now(&act);
    cframe_controller::backup::restore(&store, &dump, 1, record).await.unwrap();
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

//! Reading the audit log, and following it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cframe_protocol::{
    session::CallFailure,
    v1::{AuditQuery, Call, ErrorCode, Reply},
};
use serde_json::Value;

use super::records_of;
use crate::support::{
    admin::AdminCalls,
    calls::{label, route_add},
    controller::TestController,
    wait::in_time,
};

#[tokio::test(flavor = "multi_thread")]
async fn records_are_found_by_who_what_where_and_when() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    controller.add_namespace("lab").await;
    for index in 0..600 {
        controller
            .change(route_add(&format!("r{index}"), &format!("fd00:{index:x}::/64"), "a"))
            .await;
    }
    let find = async |query: AuditQuery| records_of(&controller, query).await;
    let all = find(AuditQuery::default()).await;
    assert_eq!(all.len(), 605);
    let newest = find(AuditQuery { limit: 300, ..AuditQuery::default() }).await;
    assert_eq!(newest, all[305..]);
    let lab = AuditQuery { namespace: Some(label("lab")), ..AuditQuery::default() };
    assert_eq!(find(lab).await, all[4..5]);
    let edges = AuditQuery { call: Some("edge-add".into()), limit: 1, ..AuditQuery::default() };
    assert_eq!(find(edges).await, all[3..4]);
    let by = |who: &str| AuditQuery { who: Some(who.into()), ..AuditQuery::default() };
    assert_eq!(find(by("local")).await, all[..1]);
    assert_eq!(find(by("root")).await.len(), 604);
    assert!(find(by("nobody")).await.is_empty());
    let time = |record: &Value| record["time"].as_u64().unwrap();
    let (since, until) = (time(&all[100]), time(&all[400]));
    let between = AuditQuery { since: Some(since), until: Some(until), ..AuditQuery::default() };
    let expected = all.iter().filter(|record| (since..until).contains(&time(record)));
    assert_eq!(find(between).await.len(), expected.count());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_follows_gets_each_record_once_until_the_admin_is_removed() {
    let controller = TestController::with_edges(&["a"]).await;
    let other = controller.enrol_admin("other", true).await.unwrap().client();
    let following = other.admin_connection().await;
    let query = AuditQuery { limit: 1, follow: true, ..AuditQuery::default() };
    let mut replies = following.call(Call::Audit(query), false).await.unwrap();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut next = 0;
    while next < 50 {
        controller
            .change(route_add(&format!("r{next}"), &format!("fd00:{next:x}::/64"), "a"))
            .await;
        next += 1;
    }
    let mut subjects = Vec::new();
    while !subjects.iter().any(|subject| subject == "prod/r49") {
        let reply = in_time(replies.next()).await.unwrap();
        let Some(Reply::Audit(rows)) = reply else { panic!("{reply:?}") };
        for row in rows {
            *seen.entry(row.id).or_default() += 1;
            let record: Value = serde_json::from_str(&row.record).unwrap();
            subjects.push(record["subject"].as_str().unwrap().to_owned());
        }
    }
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    // The first of them may be any of these: it was the newest when the controller received the query.
    let expected: Vec<String> = ["other".to_owned()]
        .into_iter()
        .chain((0..50).map(|index| format!("prod/r{index}")))
        .collect();
    assert!(expected.ends_with(&subjects), "{subjects:?}");
    controller.change(Call::AdminDel { name: label("other") }).await;
    let end = in_time(async {
        loop {
            match replies.next().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    match end.await {
        Err(CallFailure::Refused(error)) => assert_eq!(error.code, ErrorCode::NotAllowed),
        Err(CallFailure::Lost(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_follows_does_not_delay_a_stop() {
    let mut controller = TestController::start().await;
    let following = controller.admin_connection().await;
    let query = AuditQuery { follow: true, ..AuditQuery::default() };
    let mut replies = following.call(Call::Audit(query), false).await.unwrap();
    assert!(matches!(replies.next().await, Ok(Some(Reply::Audit(_)))));
    let start = Instant::now();
    controller.stop().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let end = in_time(replies.next()).await;
    assert!(end.is_err(), "{end:?}");
}

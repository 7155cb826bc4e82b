//! What the store must contain according to its audit log, compared with what the controller lists.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use cframe_protocol::session::AdminConnection;
use cframe_protocol::v1::{AuditQuery, AuditRow, Call, CertState, Reply};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::writers::{Counts, Note};

/// Values by key, such as `edges/prod/aws-hk`.
type Content = BTreeMap<String, Value>;

/// A call and its subject.
type Change = (String, String);

pub(super) struct Ledger {
    /// By the records so far.
    content: Content,
    /// All keys that have ever existed.
    created: BTreeSet<String>,
    /// The id of the last record that was applied.
    last: String,
}

impl Ledger {
    /// Starts with what the controller lists.
    pub(super) async fn open(admin: &AdminConnection) -> Result<Self> {
        let content = list_all(admin).await?;
        let last = records(admin, "").await?.pop().context("no record at all")?;
        Ok(Self { created: content.keys().cloned().collect(), content, last: last.id })
    }

    /// Applies the records that are new, and compares them with the writers' notes and with what the controller lists.
    pub(super) async fn verify(
        &mut self,
        admin: &AdminConnection,
        notes: &[Note],
        counts: &mut Counts,
    ) -> Result<()> {
        let mut recorded: BTreeMap<Change, usize> = BTreeMap::new();
        for row in records(admin, &self.last).await? {
            let record: Value = serde_json::from_str(&row.record)?;
            self.apply_record(&record).with_context(|| format!("record {}: {record}", row.id))?;
            let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
            if text("result") == "ok" {
                *recorded.entry((text("call"), text("subject"))).or_default() += 1;
            }
            self.last = row.id;
        }
        compare_content(&self.content, &list_all(admin).await?)?;
        self.compare_notes(notes, recorded, counts)
    }

    fn compare_notes(
        &self,
        notes: &[Note],
        recorded: BTreeMap<Change, usize>,
        counts: &mut Counts,
    ) -> Result<()> {
        let mut requested: BTreeMap<Change, usize> = BTreeMap::new();
        let mut acknowledged = requested.clone();
        for note in notes {
            match note {
                Note::Requested { call, subject } => {
                    *requested.entry(((*call).to_owned(), subject.clone())).or_default() += 1;
                }
                Note::Acknowledged { call, subject, created } => {
                    *acknowledged.entry(((*call).to_owned(), subject.clone())).or_default() += 1;
                    if let Some(key) = created {
                        ensure!(self.created.contains(key), "LOST: {key}, which was acknowledged");
                    }
                }
            }
        }
        for (change, count) in &acknowledged {
            let (found, (call, subject)) = (recorded.get(change).copied().unwrap_or(0), change);
            ensure!(
                found >= *count,
                "LOST: {call} of {subject} was acknowledged {count} times, and recorded {found} times"
            );
        }
        for (change, count) in recorded {
            let wanted = requested.get(&change).copied().unwrap_or(0);
            let answered = acknowledged.get(&change).copied().unwrap_or(0);
            let (call, subject) = change;
            ensure!(
                count <= wanted,
                "INVENTED: {call} of {subject} was recorded {count} times, and requested {wanted} times"
            );
            counts.acknowledged += answered;
            counts.unanswered += count - answered;
            counts.joins += if call == "join" { count } else { 0 };
            counts.revocations += if call == "cert-revoke" { count } else { 0 };
        }
        Ok(())
    }

    /// Applies the changes of a record, each of which must start at the current value of its key.
    fn apply_record(&mut self, record: &Value) -> Result<()> {
        ensure!(record.get("more_changes").is_none(), "it has more changes than it names");
        for change in record["changes"].as_array().into_iter().flatten() {
            let key = change["key"].as_str().context("a change without a key")?.to_owned();
            let current = self.content.remove(&key).unwrap_or_default();
            let next = apply_change(current, &change["before"], &change["after"])
                .with_context(|| format!("TORN: {key} does not follow from its last value"))?;
            // Used tokens are not listed.
            if !next.is_null() && next.get("used").is_none() {
                self.content.insert(key.clone(), next);
            }
            self.created.insert(key);
        }
        Ok(())
    }
}

/// Replaces the fields of `before` in `current` by those of `after`; null is an absent value.
fn apply_change(current: Value, before: &Value, after: &Value) -> Result<Value> {
    match (current, before, after) {
        (Value::Object(mut current), Value::Object(before), Value::Object(after)) => {
            for (field, before) in before {
                let old = current.remove(field).unwrap_or_default();
                let after = after.get(field).unwrap_or(&Value::Null);
                let next = apply_change(old, before, after).with_context(|| field.clone())?;
                if !next.is_null() {
                    current.insert(field.clone(), next);
                }
            }
            for (field, after) in after.iter().filter(|(field, _)| !before.contains_key(*field)) {
                let old = current.insert(field.clone(), after.clone());
                ensure!(old.is_none(), "{field} existed: {old:?}");
            }
            Ok(Value::Object(current))
        }
        (current, before, after) => {
            ensure!(current == *before, "it was {current}, and the record says {before}");
            Ok(after.clone())
        }
    }
}

fn compare_content(recorded: &Content, listed: &Content) -> Result<()> {
    for key in recorded.keys().chain(listed.keys()) {
        let kind = key.split('/').next().unwrap_or_default();
        let by_records = recorded.get(key).map(|value| common_fields(kind, value));
        let by_lists = listed.get(key).map(|value| common_fields(kind, value));
        ensure!(
            by_records == by_lists,
            "TORN: {key} is listed as {by_lists:?}, and by the records is {by_records:?}"
        );
    }
    Ok(())
}

/// The fields that both a record and a list have.
fn common_fields(kind: &str, value: &Value) -> Value {
    let fields: &[&str] = match kind {
        "namespaces" => &["description", "settings", "revision"],
        "edges" => &["description", "cidrs", "endpoints"],
        "routes" => &["prefix", "edge"],
        "tokens" => &["namespace", "edge", "created", "expires", "rejoin", "created_by"],
        "certs" => &["id", "spki", "not_before", "not_after"],
        "denied" => &["at", "reason"],
        _ => &[],
    };
    let all = fields.iter().map(|field| ((*field).to_owned(), value[*field].clone()));
    Value::Object(all.collect::<Map<_, _>>())
}

async fn records(admin: &AdminConnection, after: &str) -> Result<Vec<AuditRow>> {
    let since = after.split('-').next().and_then(|millis| millis.parse().ok());
    let query = AuditQuery { since, ..AuditQuery::default() };
    let mut rows = Vec::new();
    for reply in call_replies(admin, Call::Audit(query)).await? {
        let Reply::Audit(more) = reply else { bail!("audit was answered with {reply:?}") };
        rows.extend(more.into_iter().filter(|row| row.id.as_str() > after));
    }
    Ok(rows)
}

async fn list_all(admin: &AdminConnection) -> Result<Content> {
    let mut content = Content::new();
    let calls = [
        Call::NamespaceList,
        Call::EdgeList { namespace: None },
        Call::RouteList { namespace: None },
        Call::TokenList { namespace: None },
        Call::CertList { namespace: None },
    ];
    for call in calls {
        for reply in call_replies(admin, call).await? {
            #[expect(clippy::wildcard_enum_match_arm, reason = "no other reply is a list")]
            match reply {
                Reply::Namespaces(rows) => {
                    add(&mut content, rows, |row| format!("namespaces/{}", row.name))?;
                }
                Reply::Edges(rows) => {
                    add(&mut content, rows, |row| format!("edges/{}/{}", row.namespace, row.name))?;
                }
                Reply::Routes(rows) => {
                    add(&mut content, rows, |row| {
                        format!("routes/{}/{}", row.namespace, row.name)
                    })?;
                }
                Reply::Tokens(rows) => add(&mut content, rows, |row| format!("tokens/{}", row.id))?,
                Reply::Certs(rows) => {
                    for row in &rows {
                        if let CertState::Revoked { at, reason } = &row.state {
                            let denied = json!({ "at": at, "reason": reason });
                            content.insert(format!("denied/{}", row.serial), denied);
                        }
                    }
                    add(&mut content, rows, |row| format!("certs/{}", row.serial))?;
                }
                other => bail!("not a list: {other:?}"),
            }
        }
    }
    Ok(content)
}

fn add<T: Serialize>(
    content: &mut Content,
    rows: Vec<T>,
    key: impl Fn(&T) -> String,
) -> Result<()> {
    for row in rows {
        content.insert(key(&row), serde_json::to_value(&row)?);
    }
    Ok(())
}

async fn call_replies(admin: &AdminConnection, call: Call) -> Result<Vec<Reply>> {
    Ok(admin.call(call, false).await?.collect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(content: Value) -> Ledger {
        let content: Content = serde_json::from_value(content).unwrap();
        Ledger { created: BTreeSet::new(), content, last: String::new() }
    }

    fn record(changes: Value) -> Value {
        json!({ "call": "x", "result": "ok", "changes": changes })
    }

    #[test]
    fn a_change_must_start_at_the_result_of_the_one_before() {
        let mut ledger =
            ledger(json!({ "namespaces/a": { "revision": 7, "settings": { "mtu": 1 } } }));
        let next = json!([{ "key": "namespaces/a", "before": { "revision": 7 }, "after": { "revision": 8 } },
                          { "key": "edges/a/b", "before": null, "after": { "cidrs": [] } }]);
        ledger.apply_record(&record(next.clone())).unwrap();
        assert_eq!(ledger.content["namespaces/a"]["revision"], 8);
        let error = ledger.apply_record(&record(next)).unwrap_err();
        assert!(format!("{error:#}").contains("TORN"), "{error:#}");
    }

    #[test]
    fn nested_fields_change_and_removed_values_are_gone() {
        let mut ledger = ledger(
            json!({ "namespaces/a": { "settings": { "mtu": 1, "x": 2 } }, "t": { "a": 1 } }),
        );
        let changes = json!([
            { "key": "namespaces/a", "before": { "settings": { "mtu": 1 } },
              "after": { "settings": { "mtu": 5 }, "description": "new" } },
            { "key": "t", "before": { "a": 1 }, "after": null },
            { "key": "tokens/1", "before": null, "after": { "used": 9 } },
        ]);
        ledger.apply_record(&record(changes)).unwrap();
        let expected =
            json!({ "namespaces/a": { "settings": { "mtu": 5, "x": 2 }, "description": "new" } });
        assert_eq!(serde_json::to_value(&ledger.content).unwrap(), expected);
    }

    #[test]
    fn a_change_without_its_record_and_a_record_without_its_change_are_torn() {
        let content = |value| serde_json::from_value::<Content>(value).unwrap();
        let one =
            content(json!({ "routes/a/b": { "prefix": "10.0.0.0/8", "edge": "e", "name": "b" } }));
        let same = content(json!({ "routes/a/b": { "prefix": "10.0.0.0/8", "edge": "e" } }));
        compare_content(&one, &same).unwrap();
        for (one, other) in [(&one, &Content::new()), (&Content::new(), &one)] {
            assert!(compare_content(one, other).unwrap_err().to_string().contains("TORN"));
        }
    }

    #[test]
    fn an_acknowledged_change_without_a_record_is_lost() {
        let ledger = ledger(json!({}));
        let mut counts = Counts::default();
        let (call, subject) = ("route-add", "r".to_owned());
        let requested = Note::Requested { call, subject: subject.clone() };
        let acknowledged = Note::Acknowledged { call, subject, created: None };
        let recorded = BTreeMap::from([(("route-add".to_owned(), "r".to_owned()), 1)]);
        let both = [requested.clone(), acknowledged];
        let lost = ledger.compare_notes(&both, BTreeMap::new(), &mut counts).unwrap_err();
        assert!(lost.to_string().contains("LOST"), "{lost}");
        let invented = ledger.compare_notes(&[], recorded.clone(), &mut counts).unwrap_err();
        assert!(invented.to_string().contains("INVENTED"), "{invented}");
        ledger.compare_notes(&both, recorded.clone(), &mut counts).unwrap();
        ledger.compare_notes(&[requested], recorded, &mut counts).unwrap();
        assert_eq!((counts.acknowledged, counts.unanswered), (1, 1));
    }
}

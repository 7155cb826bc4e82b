//! What the store must hold, by its audit log, and whether it does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use cframe_protocol::session::AdminConnection;
use cframe_protocol::v1::{AuditQuery, AuditRow, Call, CertState, Reply};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::writers::{Note, Tally};

/// By key, as `edges/prod/aws-hk`: what is there.
type Content = BTreeMap<String, Value>;

pub(super) struct Ledger {
    content: Content,
    /// Keys that ever were.
    made: BTreeSet<String>,
    /// The last record that is in it.
    last: String,
}

impl Ledger {
    /// Begins with what is there.
    pub(super) async fn open(admin: &AdminConnection) -> Result<Self> {
        let content = listed(admin).await?;
        let last = records(admin, "").await?.pop().context("no record at all")?;
        Ok(Self { made: content.keys().cloned().collect(), content, last: last.id })
    }

    /// Takes in the records since it was last looked, and compares them with what was noted and what is there.
    pub(super) async fn look(
        &mut self,
        admin: &AdminConnection,
        notes: &[Note],
        tally: &mut Tally,
    ) -> Result<()> {
        let mut recorded: BTreeMap<(String, String), usize> = BTreeMap::new();
        for row in records(admin, &self.last).await? {
            let record: Value = serde_json::from_str(&row.record)?;
            self.take(&record).with_context(|| format!("record {}: {record}", row.id))?;
            let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
            if text("result") == "ok" {
                *recorded.entry((text("call"), text("subject"))).or_default() += 1;
            }
            self.last = row.id;
        }
        let there = listed(admin).await?;
        compare(&self.content, &there)?;
        self.compare_notes(notes, recorded, tally)
    }

    fn compare_notes(
        &self,
        notes: &[Note],
        recorded: BTreeMap<(String, String), usize>,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut asked: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut told = asked.clone();
        for note in notes {
            match note {
                Note::Asked(call, subject) => {
                    *asked.entry(((*call).to_owned(), subject.clone())).or_default() += 1;
                }
                Note::Told(call, subject, made) => {
                    *told.entry(((*call).to_owned(), subject.clone())).or_default() += 1;
                    if let Some(key) = made {
                        ensure!(self.made.contains(key), "LOST: {key}, which was acknowledged");
                    }
                }
            }
        }
        for ((call, subject), count) in &told {
            let found = recorded.get(&(call.clone(), subject.clone())).copied().unwrap_or(0);
            ensure!(
                found >= *count,
                "LOST: {call} of {subject} was acknowledged {count} times, and {found} are recorded"
            );
        }
        for ((call, subject), count) in recorded {
            let key = (call.clone(), subject.clone());
            let wanted = asked.get(&key).copied().unwrap_or(0);
            ensure!(
                count <= wanted,
                "INVENTED: {call} of {subject} is recorded {count} times, and was asked {wanted} times"
            );
            let acknowledged = told.get(&key).copied().unwrap_or(0);
            tally.acknowledged += acknowledged;
            tally.unanswered += count - acknowledged;
            tally.joins += if call == "join" { count } else { 0 };
            tally.revocations += if call == "cert-revoke" { count } else { 0 };
        }
        Ok(())
    }

    /// Every change of a record begins where the one before it ended.
    fn take(&mut self, record: &Value) -> Result<()> {
        ensure!(record.get("more_changes").is_none(), "it has more changes than it names");
        for change in record["changes"].as_array().into_iter().flatten() {
            let key = change["key"].as_str().context("a change without a key")?.to_owned();
            let is = self.content.remove(&key).unwrap_or_default();
            let next = advance(is, &change["before"], &change["after"])
                .with_context(|| format!("TORN: {key} does not follow from what was"))?;
            // A token that was used is listed no more.
            if !next.is_null() && next.get("used").is_none() {
                self.content.insert(key.clone(), next);
            }
            self.made.insert(key);
        }
        Ok(())
    }
}

/// What `is`, with the fields of `before` replaced by those of `after`.
fn advance(is: Value, before: &Value, after: &Value) -> Result<Value> {
    match (is, before, after) {
        (Value::Object(mut is), Value::Object(before), Value::Object(after)) => {
            for (field, before) in before {
                let old = is.remove(field).unwrap_or_default();
                let after = after.get(field).unwrap_or(&Value::Null);
                let next = advance(old, before, after).with_context(|| field.clone())?;
                if !next.is_null() {
                    is.insert(field.clone(), next);
                }
            }
            for (field, after) in after.iter().filter(|(field, _)| !before.contains_key(*field)) {
                let old = is.insert(field.clone(), after.clone());
                ensure!(old.is_none(), "{field} was there: {old:?}");
            }
            Ok(Value::Object(is))
        }
        (is, before, after) => {
            ensure!(is == *before, "it was {is}, and the record says {before}");
            Ok(after.clone())
        }
    }
}

fn compare(by_records: &Content, there: &Content) -> Result<()> {
    for key in by_records.keys().chain(there.keys()) {
        let kind = key.split('/').next().unwrap_or_default();
        let recorded = by_records.get(key).map(|value| shown(kind, value));
        let is = there.get(key).map(|value| shown(kind, value));
        ensure!(recorded == is, "TORN: {key} is {is:?}, and by the records {recorded:?}");
    }
    Ok(())
}

/// The fields that both a record and a list have.
fn shown(kind: &str, value: &Value) -> Value {
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
    for reply in ask(admin, Call::Audit(query)).await? {
        let Reply::Audit(more) = reply else { bail!("no records: {reply:?}") };
        rows.extend(more.into_iter().filter(|row| row.id.as_str() > after));
    }
    Ok(rows)
}

/// Everything that the controller lists.
async fn listed(admin: &AdminConnection) -> Result<Content> {
    let mut content = Content::new();
    let calls = [
        Call::NamespaceList,
        Call::EdgeList { namespace: None },
        Call::RouteList { namespace: None },
        Call::TokenList { namespace: None },
        Call::CertList { namespace: None },
    ];
    for call in calls {
        for reply in ask(admin, call).await? {
            #[expect(clippy::wildcard_enum_match_arm, reason = "no other answer is right")]
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

async fn ask(admin: &AdminConnection, call: Call) -> Result<Vec<Reply>> {
    Ok(admin.call(call, false).await?.collect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(content: Value) -> Ledger {
        let content: Content = serde_json::from_value(content).unwrap();
        Ledger { made: BTreeSet::new(), content, last: String::new() }
    }

    fn record(changes: Value) -> Value {
        json!({ "call": "x", "result": "ok", "changes": changes })
    }

    #[test]
    fn a_change_must_follow_from_the_one_before() {
        let mut ledger =
            ledger(json!({ "namespaces/a": { "revision": 7, "settings": { "mtu": 1 } } }));
        let next = json!([{ "key": "namespaces/a", "before": { "revision": 7 }, "after": { "revision": 8 } },
                          { "key": "edges/a/b", "before": null, "after": { "cidrs": [] } }]);
        ledger.take(&record(next.clone())).unwrap();
        assert_eq!(ledger.content["namespaces/a"]["revision"], 8);
        let error = ledger.take(&record(next)).unwrap_err();
        assert!(format!("{error:#}").contains("TORN"), "{error:#}");
    }

    #[test]
    fn nested_fields_change_and_what_goes_is_gone() {
        let mut ledger = ledger(
            json!({ "namespaces/a": { "settings": { "mtu": 1, "x": 2 } }, "t": { "a": 1 } }),
        );
        let changes = json!([
            { "key": "namespaces/a", "before": { "settings": { "mtu": 1 } },
              "after": { "settings": { "mtu": 5 }, "description": "new" } },
            { "key": "t", "before": { "a": 1 }, "after": null },
            { "key": "tokens/1", "before": null, "after": { "used": 9 } },
        ]);
        ledger.take(&record(changes)).unwrap();
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
        compare(&one, &same).unwrap();
        for (one, other) in [(&one, &Content::new()), (&Content::new(), &one)] {
            assert!(compare(one, other).unwrap_err().to_string().contains("TORN"));
        }
    }

    #[test]
    fn an_acknowledged_change_without_a_record_is_lost() {
        let ledger = ledger(json!({}));
        let mut tally = Tally::default();
        let asked = Note::Asked("route-add", "r".to_owned());
        let told = Note::Told("route-add", "r".to_owned(), None);
        let recorded = BTreeMap::from([(("route-add".to_owned(), "r".to_owned()), 1)]);
        let both = [asked.clone(), told];
        let lost = ledger.compare_notes(&both, BTreeMap::new(), &mut tally).unwrap_err();
        assert!(lost.to_string().contains("LOST"), "{lost}");
        let invented = ledger.compare_notes(&[], recorded.clone(), &mut tally).unwrap_err();
        assert!(invented.to_string().contains("INVENTED"), "{invented}");
        ledger.compare_notes(&both, recorded.clone(), &mut tally).unwrap();
        ledger.compare_notes(&[asked], recorded, &mut tally).unwrap();
        assert_eq!((tally.acknowledged, tally.unanswered), (1, 1));
    }
}

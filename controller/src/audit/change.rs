//! What a transaction changes, compared with the state that it was decided on. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cframe_store::{Op, Txn};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    audit::text::clean,
    model::{
        State,
        record::{self, Key},
    },
};

/// Changes in one record. Removing a namespace can be thousands.
const MAX_CHANGES: usize = 32;
/// Bytes of JSON of all changes in one record.
const MAX_BYTES: usize = 12 * 1024;
/// Elements of a list in a change.
const MAX_ELEMENTS: usize = 16;
/// A longer text that is base64 is a certificate, of which only a digest is stored.
const MIN_CERTIFICATE: usize = 200;
/// The hash of a token's secret: never stored.
const HASH_FIELD: &str = "secret_hash";

/// One key that was written, with those of its fields that differ. `null` stands for an absent key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The key below `/cframe/v1/`: `edges/prod/aws-hk`.
    pub key: String,
    pub before: Value,
    pub after: Value,
}

/// The changes of a transaction that was decided on `state`, and how many more there are than fit into a record. A
/// record that is written again as it was does not count.
pub fn changes(state: &State, txn: &Txn) -> (Vec<Change>, u64) {
    let mut unchanged = 0;
    let mut kept: Vec<Change> = Vec::new();
    for op in &txn.ops {
        if kept.len() == MAX_CHANGES {
            break;
        }
        let change = change(state, op);
        if change.is_empty() {
            unchanged += 1;
        } else {
            kept.push(change);
        }
    }
    let mut room = MAX_BYTES;
    let fits = kept.iter().take_while(|change| {
        let size = serde_json::to_vec(change).map_or(usize::MAX, |json| json.len());
        room = room.saturating_sub(size);
        room > 0
    });
    let fits = fits.count();
    kept.truncate(fits);
    let more = txn.ops.len() - unchanged - kept.len();
    (kept, more as u64)
}

impl Change {
    /// Whether no field differs.
    fn is_empty(&self) -> bool {
        let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        empty(&self.before) && empty(&self.after)
    }
}

fn change(state: &State, op: &Op) -> Change {
    let key = op.key().strip_prefix(record::ROOT).unwrap_or(op.key()).to_owned();
    let before = op.key().parse().ok().and_then(|key| before(state, &key)).unwrap_or_default();
    let after = match op {
        Op::Put { value, .. } => serde_json::from_slice(value).unwrap_or_default(),
        Op::Delete { .. } => Value::Null,
    };
    let (before, after) = without_equal(before, without_schema(after));
    Change { key, before: clean_value(before), after: clean_value(after) }
}

/// The record of a key as the state has it.
fn before(state: &State, key: &Key) -> Option<Value> {
    let value = match key {
        Key::Mesh => serde_json::to_value(&state.mesh.record),
        Key::Namespace(name) => serde_json::to_value(&state.namespaces.get(name)?.record),
        Key::Edge(space, name) => {
            serde_json::to_value(&state.namespaces.get(space)?.edges.get(name)?.record)
        }
        Key::Route(space, name) => {
            serde_json::to_value(&state.namespaces.get(space)?.routes.get(name)?.record)
        }
        Key::Token(id) => serde_json::to_value(&state.tokens.get(id)?.record),
        Key::Cert(serial) => serde_json::to_value(&state.certs.get(serial)?.record),
        Key::Denied(serial) => serde_json::to_value(&state.denied.get(serial)?.record),
        Key::Admin(name) => serde_json::to_value(&state.admins.get(name)?.record),
        Key::Controller(name) => serde_json::to_value(&state.controllers.get(name)?.record),
        Key::Issuer(spki) => serde_json::to_value(&state.issuers.get(spki)?.record),
        // No decision writes it.
        Key::Alive(_) => return None,
    };
    value.ok()
}

fn without_schema(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("schema");
    }
    value
}

/// Removes the fields that are equal in both.
fn without_equal(before: Value, after: Value) -> (Value, Value) {
    let (Value::Object(mut before), Value::Object(after)) = (before.clone(), after.clone()) else {
        return (before, after);
    };
    let (mut old, mut new) = (Map::new(), Map::new());
    for (field, after) in after {
        match before.remove(&field) {
            Some(before) if before == after => {}
            Some(before) => {
                let (before, after) = without_equal(before, after);
                old.insert(field.clone(), before);
                new.insert(field, after);
            }
            None => {
                new.insert(field, after);
            }
        }
    }
    old.append(&mut before);
    (Value::Object(old), Value::Object(new))
}

/// Makes a value safe to store: nothing secret, nothing long.
fn clean_value(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() > MIN_CERTIFICATE => match STANDARD.decode(&text) {
            Ok(der) => Value::String(sha256(&der)),
            Err(_) => Value::String(clean(&text)),
        },
        Value::String(text) => Value::String(clean(&text)),
        Value::Array(elements) => {
            let more = elements.len().saturating_sub(MAX_ELEMENTS);
            let mut kept: Vec<Value> =
                elements.into_iter().take(MAX_ELEMENTS).map(clean_value).collect();
            if more > 0 {
                kept.push(Value::String(format!("… and {more} more")));
            }
            Value::Array(kept)
        }
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(field, _)| field != HASH_FIELD)
                .map(|(field, value)| (clean(&field), clean_value(value)))
                .collect(),
        ),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// What `openssl x509 -fingerprint -sha256` shows of a certificate, in lower case and without colons.
fn sha256(bytes: &[u8]) -> String {
    let hex = digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests;

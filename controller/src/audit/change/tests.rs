use proptest::{collection::vec, prelude::*};
use serde_json::json;

use super::*;
use crate::{
    decide::draft::Draft,
    model::{
        record::{EdgeRecord, TokenKey, TokenRecord},
        sample::{edge, label, mesh, state, token},
    },
};

fn changed(draft: Draft) -> Vec<Value> {
    let (changes, more) = changes(&state(), &draft.txn);
    assert_eq!(more, 0);
    changes.iter().map(|change| serde_json::to_value(change).unwrap()).collect()
}

#[test]
fn of_a_change_the_fields_that_differ_are_kept() {
    let state = state();
    let (prod, hk) = (label("prod"), label("hk"));
    let space = &state.namespaces[&prod];
    let mut draft = Draft::within(&prod, space);
    draft.put(Key::Edge(prod.clone(), hk), &edge(&["172.30.0.0/16", "fd00:60::/64"]));
    let mut record = space.record.clone();
    record.settings.tun_mtu = 1500;
    draft.bump_namespace_to(&prod, space, record);
    assert_eq!(
        changed(draft),
        [
            json!({ "key": "edges/prod/hk", "before": { "cidrs": ["172.30.0.0/16"] },
                    "after": { "cidrs": ["172.30.0.0/16", "fd00:60::/64"] } }),
            json!({ "key": "namespaces/prod",
                    "before": { "revision": 4, "settings": { "tun_mtu": 1400 } },
                    "after": { "revision": 5, "settings": { "tun_mtu": 1500 } } }),
        ]
    );
}

#[test]
fn what_arrives_and_what_goes_is_kept_whole_without_the_hash_of_a_secret() {
    let mut draft = Draft::default();
    draft.put(Key::Token(TokenKey([2; 16])), &token());
    draft.put(Key::Token(TokenKey([1; 16])), &TokenRecord { used: Some(8), ..token() });
    draft.delete_unchecked(Key::Admin(label("alice")));
    let id = |digit: &str| format!("tokens/{}", digit.repeat(16));
    assert_eq!(
        changed(draft),
        [
            json!({ "key": id("02"), "before": null,
                    "after": { "namespace": "prod", "edge": "hk", "created": 1, "expires": 2,
                               "rejoin": false, "created_by": "alice" } }),
            json!({ "key": id("01"), "before": {}, "after": { "used": 8 } }),
            json!({ "key": "admins/alice", "before": { "read_only": true }, "after": null }),
        ]
    );
}

#[test]
fn what_is_written_again_as_it_was_is_no_change() {
    let state = state();
    let (prod, hk) = (label("prod"), label("hk"));
    let mut draft = Draft::default();
    draft.rewrite(Key::Edge(prod.clone(), hk.clone()), &state.namespaces[&prod].edges[&hk]);
    draft.rewrite(Key::Admin(label("alice")), &state.admins[&label("alice")]);
    draft.delete_unchecked(Key::Token(TokenKey([1; 16])));
    assert_eq!(draft.txn.compares.len(), 2);
    let changed = changed(draft);
    assert_eq!(changed.len(), 1, "{changed:?}");
}

#[test]
fn of_a_certificate_its_digest_is_kept() {
    let mut draft = Draft::default();
    draft.put(Key::Mesh, &mesh(2));
    let changed = changed(draft).remove(0);
    let roots = changed["after"]["trust"]["roots"].as_array().unwrap();
    assert_eq!(roots.len(), 2);
    assert!(roots.iter().all(|root| root.as_str().unwrap().starts_with("sha256:")), "{changed}");
    assert_eq!(changed["before"]["trust"]["roots"][0], roots[0]);
    assert_eq!(changed["after"].as_object().unwrap().len(), 1);
}

#[test]
fn a_record_is_bounded_whatever_the_transaction() {
    let key = |n| Key::Edge(label("prod"), label(&format!("e{n}")));
    let mut deletes = Draft::default();
    (0..5000).for_each(|n| deletes.delete_unchecked(key(n)));
    let (kept, more) = changes(&state(), &deletes.txn);
    assert_eq!((kept.len(), more), (MAX_CHANGES, 5000 - MAX_CHANGES as u64));

    let cidrs: Vec<String> = (0..500).map(|n| format!("fd00:0:0:{n:x}::/64")).collect();
    let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
    let large = EdgeRecord { description: "x".repeat(5000), ..edge(&cidrs) };
    let mut puts = Draft::default();
    (0..20).for_each(|n| puts.put(key(n), &large));
    let (kept, more) = changes(&state(), &puts.txn);
    assert_eq!(kept.len() as u64 + more, 20);
    assert_eq!(kept[0].after["cidrs"].as_array().unwrap().len(), MAX_ELEMENTS + 1);
    assert_eq!(kept[0].after["cidrs"][MAX_ELEMENTS], "… and 484 more");
    let size: usize = kept.iter().map(|change| serde_json::to_vec(change).unwrap().len()).sum();
    assert!(size <= MAX_BYTES && !kept.is_empty(), "{size} bytes");
}

/// Any JSON, with a secret here and there.
fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        ".{0,40}",
        "[a-z ]{0,9}cfj1\\.[A-Za-z0-9_-]{1,60}[\" ]?.{0,9}",
        vec(any::<u8>(), 150..500).prop_map(|bytes| STANDARD.encode(bytes)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        let field = prop_oneof![Just(HASH_FIELD.to_owned()), "[a-z_]{1,8}", ".{1,8}"];
        prop_oneof![
            vec(inner.clone(), 0..24).prop_map(Value::from),
            vec((field, inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn texts(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, see)),
        Value::Object(fields) => fields.iter().for_each(|(field, value)| {
            see(field);
            texts(value, see);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

proptest! {
    #[test]
    fn nothing_secret_long_or_obeyed_by_a_terminal_is_kept(value in json()) {
        texts(&clean_value(value), &mut |text| {
            assert_ne!(text, HASH_FIELD);
            assert!(text.chars().count() <= 201, "{text}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
            let token = text.split("cfj1.").nth(1).and_then(|rest| rest.chars().next());
            assert!(token.is_none_or(|c| c == '…'), "{text}");
        });
    }

    #[test]
    fn a_difference_leads_from_one_to_the_other(before in json(), after in json()) {
        let (old, new) = without_equal(before.clone(), after.clone());
        prop_assert_eq!(old == new, before == after || old == json!({}) && new == json!({}));
        if let (Value::Object(_), Value::Object(_)) = (&before, &after) {
            prop_assert_eq!(advance(before, &old, &new), after);
        } else {
            prop_assert_eq!((old, new), (before, after));
        }
    }
}

/// The fields of `old` replaced by those of `new`.
fn advance(value: Value, old: &Value, new: &Value) -> Value {
    let (Value::Object(mut fields), Value::Object(old), Value::Object(new)) = (value, old, new)
    else {
        return new.clone();
    };
    for (field, old) in old {
        let was = fields.remove(field).unwrap();
        if let Some(new) = new.get(field) {
            fields.insert(field.clone(), advance(was, old, new));
        }
    }
    for (field, new) in new {
        fields.entry(field.clone()).or_insert_with(|| new.clone());
    }
    Value::Object(fields)
}

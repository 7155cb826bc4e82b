//! Parsing of names and SPIFFE IDs.

use proptest::prelude::*;

use super::{Label, MeshName, Role, SpiffeId, SpiffeIdError};

#[test]
fn labels_are_dns_labels_in_lower_case() {
    for good in ["a", "0", "aws-hk", "a--b", &"x".repeat(63)] {
        assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
    }
    for (bad, rule) in [
        ("", "empty"),
        ("A", "lower-case"),
        ("a.b", "lower-case"),
        ("a_b", "lower-case"),
        ("a/b", "lower-case"),
        ("é", "lower-case"),
        ("a\0", "lower-case"),
        ("-a", "start or end"),
        ("a-", "start or end"),
        (&"x".repeat(64), "63"),
    ] {
        let error = bad.parse::<Label>().unwrap_err().to_string();
        assert!(error.contains(rule) && error.contains(&format!("{bad:?}")), "{error}");
    }
}

#[test]
fn a_mesh_name_is_labels_with_dots() {
    let longest = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "x".repeat(61)].join(".");
    for good in ["m", "mesh.example.com", &longest] {
        assert_eq!(good.parse::<MeshName>().unwrap().as_str(), good);
    }
    for bad in ["", ".", "a.", ".a", "a..b", "A.b", "a:1", &format!("{longest}x")] {
        assert!(bad.parse::<MeshName>().is_err(), "{bad}");
    }
}

#[test]
fn an_error_quotes_only_the_start_of_the_text() {
    let error = "X".repeat(100_000).parse::<Label>().unwrap_err().to_string();
    assert!(error.len() < 500, "{}", error.len());
}

#[test]
fn the_three_forms_of_an_identity() {
    let edge: SpiffeId = "spiffe://mesh.example/ns/prod/edge/aws-hk".parse().unwrap();
    assert_eq!(edge.mesh, "mesh.example");
    let (namespace, name) = ("prod".parse().unwrap(), "aws-hk".parse().unwrap());
    assert_eq!(edge.role, Role::Edge { namespace, name });
    assert_eq!(edge.role.namespace().unwrap(), &"prod");

    for (text, kind) in
        [("spiffe://m/controller/c1", "controller"), ("spiffe://m/admin/li", "admin")]
    {
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.role.kind(), kind);
        assert_eq!(id.role.namespace(), None);
        assert_eq!(id.to_string(), text);
    }
}

#[test]
fn an_identity_error_says_what_was_expected_or_which_name_is_wrong() {
    let form = "spiffe://m/ns/prod".parse::<SpiffeId>().unwrap_err();
    assert!(matches!(form, SpiffeIdError::Form(_)));
    assert!(form.to_string().contains("spiffe://MESH/ns/NAMESPACE/edge/NAME"), "{form}");
    let name = "spiffe://m/admin/Li".parse::<SpiffeId>().unwrap_err().to_string();
    assert!(name.contains("\"Li\"") && name.contains("lower-case"), "{name}");
}

#[test]
fn serde_has_the_text_and_checks_it() {
    let id: SpiffeId = serde_json::from_str("\"spiffe://m/admin/li\"").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://m/admin/li\"");
    assert!(serde_json::from_str::<SpiffeId>("\"spiffe://m/admin/\"").is_err());
    assert!(serde_json::from_str::<Label>("\"Prod\"").is_err());

    let config = bincode::config::standard().with_limit::<256>();
    let bytes = bincode::serde::encode_to_vec(&id, config).unwrap();
    assert_eq!(bincode::serde::decode_from_slice(&bytes, config).unwrap(), (id, bytes.len()));
}

#[test]
fn a_label_lines_up_in_a_table() {
    let label: Label = "hk".parse().unwrap();
    assert_eq!(format!("{label:<5}|"), "hk   |");
}

fn label() -> impl Strategy<Value = Label> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn identity() -> impl Strategy<Value = SpiffeId> {
    let mesh = prop::collection::vec(label(), 1..3).prop_map(|labels| {
        let texts: Vec<_> = labels.iter().map(Label::as_str).collect();
        texts.join(".").parse::<MeshName>().unwrap()
    });
    let role = prop_oneof![
        (label(), label()).prop_map(|(namespace, name)| Role::Edge { namespace, name }),
        label().prop_map(|name| Role::Controller { name }),
        label().prop_map(|name| Role::Admin { name }),
    ];
    (mesh, role).prop_map(|(mesh, role)| SpiffeId { mesh, role })
}

proptest! {
    #[test]
    fn every_identity_is_read_as_it_was_written(id in identity()) {
        prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn what_is_read_is_written_the_same(text in "(spiffe://)?[a-zA-Z0-9./:?%#-]{0,40}(ns|controller|admin|edge|/|[a-z]){0,8}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}

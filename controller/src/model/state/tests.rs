use std::collections::BTreeSet;

use cframe_pki::{CertificateDer, Fingerprint, bundle::TrustBundle};
use cframe_protocol::v1::{Change, Endpoint, Settings};
use cframe_store::{Batch, Entry, Op};
use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::{
    decide::draft::Draft,
    model::record::{self, CertRecord, EdgeRecord, Key, MeshRecord, NamespaceRecord, RouteRecord},
};

/// One step of a random history, with a handful of names.
#[derive(Debug, Clone)]
enum Step {
    Edge { name: u8, third: u8, endpoint: bool },
    EdgeGone { name: u8 },
    Route { name: u8, edge: u8, third: u8 },
    RouteGone { name: u8 },
    Deny { serial: u8, controller: bool },
    Forgive { serial: u8 },
    Mtu { mtu: u16 },
    Controllers { port: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..4, 0u8..8, any::<bool>()).prop_map(|(name, third, endpoint)| Step::Edge {
            name,
            third,
            endpoint
        }),
        (0u8..4).prop_map(|name| Step::EdgeGone { name }),
        (0u8..6, 0u8..4, 0u8..8).prop_map(|(name, edge, third)| Step::Route { name, edge, third }),
        (0u8..6).prop_map(|name| Step::RouteGone { name }),
        (0u8..4, any::<bool>()).prop_map(|(serial, controller)| Step::Deny { serial, controller }),
        prop_oneof![0u8..4, 100u8..104].prop_map(|serial| Step::Forgive { serial }),
        (1280u16..1290).prop_map(|mtu| Step::Mtu { mtu }),
        (1u16..5).prop_map(|port| Step::Controllers { port }),
    ]
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn space() -> Label {
    label("prod")
}

fn start() -> State {
    let mesh = MeshRecord {
        name: "m".parse().unwrap(),
        epoch: 7,
        revision: 1,
        trust: TrustBundle {
            roots: vec![CertificateDer::from(vec![1, 2, 3])],
            revoked_issuers: BTreeSet::new(),
        },
        controllers: BTreeSet::new(),
        roots_since: BTreeMap::new(),
    };
    let namespace =
        NamespaceRecord { description: String::new(), settings: Settings::default(), revision: 1 };
    let entries = vec![
        entry(Key::Mesh, &mesh),
        entry(Key::Namespace(space()), &namespace),
        entry(Key::Namespace(label("other")), &namespace),
    ];
    State::load(&View { revision: 1, entries }).unwrap()
}

fn entry<T: serde::Serialize>(key: Key, record: &T) -> Entry {
    Entry { key: key.to_string(), value: record::encode(record), modified: 1 }
}

/// An edge, unless its prefix overlaps with another's.
fn edge(namespace: &Namespace, name: u8, third: u8, endpoint: bool) -> Option<(Label, EdgeRecord)> {
    let name = label(&format!("e{name}"));
    let cidr: IpNet = format!("10.{third}.0.0/16").parse().unwrap();
    let mut overlapping = namespace.prefixes.overlapping(cidr);
    if overlapping.any(|(_, source)| source.edge != name || source.route.is_some()) {
        return None;
    }
    let endpoint: Option<Endpoint> =
        endpoint.then(|| format!("192.0.2.{third}:1").parse().unwrap());
    let endpoints = endpoint.into_iter().collect();
    Some((name, EdgeRecord { cidrs: vec![cidr], endpoints, ..EdgeRecord::default() }))
}

/// The step as a write; empty if it is not possible.
fn decide(state: &State, step: &Step) -> Draft {
    let namespace = &state.namespaces[&space()];
    let mut draft = Draft::within(&space(), namespace);
    match step {
        Step::Edge { name, third, endpoint } => {
            let Some((name, edge)) = edge(namespace, *name, *third, *endpoint) else {
                return Draft::default();
            };
            draft.put(Key::Edge(space(), name), &edge);
            draft.bump_namespace(&space(), namespace);
        }
        Step::EdgeGone { name } => {
            let name = label(&format!("e{name}"));
            if !namespace.edges.contains_key(&name) {
                return Draft::default();
            }
            for (route, _) in namespace.routes_of(&name) {
                draft.delete_unchecked(Key::Route(space(), route.clone()));
            }
            draft.delete_unchecked(Key::Edge(space(), name));
            draft.bump_namespace(&space(), namespace);
        }
        Step::Route { name, edge, third } => {
            let edge = label(&format!("e{edge}"));
            let prefix: IpNet = format!("10.{third}.1.0/24").parse().unwrap();
            let name = label(&format!("r{name}"));
            let taken = namespace
                .prefixes
                .overlapping(prefix)
                .any(|(net, source)| source.edge != edge || net == prefix);
            if taken || !namespace.edges.contains_key(&edge) || namespace.routes.contains_key(&name)
            {
                return Draft::default();
            }
            draft.put(Key::Route(space(), name), &RouteRecord { prefix, edge });
            draft.bump_namespace(&space(), namespace);
        }
        Step::RouteGone { name } => {
            let name = label(&format!("r{name}"));
            if !namespace.routes.contains_key(&name) {
                return Draft::default();
            }
            draft.delete_unchecked(Key::Route(space(), name));
            draft.bump_namespace(&space(), namespace);
        }
        Step::Deny { serial, controller } => {
            let id =
                if *controller { "spiffe://m/controller/c" } else { "spiffe://m/ns/prod/edge/e0" };
            let cert = CertRecord {
                id: id.parse().unwrap(),
                spki: Fingerprint::of_spki(&[*serial]),
                not_before: 0,
                not_after: 100,
                renews: None,
                issuer: None,
                bundle: None,
            };
            let serial = if *controller { serial + 100 } else { *serial };
            draft.deny(state, Serial::from_bytes([serial; 16]), &cert, 1, "");
        }
        Step::Forgive { serial } => {
            let serial = Serial::from_bytes([*serial; 16]);
            let Some(denied) = state.denied.get(&serial) else { return Draft::default() };
            draft.delete_unchecked(Key::Denied(serial));
            draft.bump_for(state, &denied.record.entry.id.role);
        }
        Step::Mtu { mtu } => {
            let mut record = namespace.record.clone();
            record.settings.tun_mtu = *mtu;
            draft.bump_namespace_to(&space(), namespace, record);
        }
        Step::Controllers { port } => {
            let mut mesh = state.mesh.record.clone();
            mesh.controllers = [format!("192.0.2.1:{port}").parse().unwrap()].into();
            draft.bump_mesh(&state.mesh, mesh);
        }
    }
    draft
}

fn batch(state: &State, draft: &Draft) -> Batch {
    let changes = draft.txn.ops.iter().map(|op| match op {
        Op::Put { key, value } => (key.clone(), Some(value.clone())),
        Op::Delete { key } => (key.clone(), None),
    });
    Batch { revision: state.revision + 1, changes: changes.collect() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// An edge that follows the differences, from whichever version it has, is where a snapshot leads; and
    /// the state that follows the store is the one that is loaded from it.
    #[test]
    fn differences_lead_where_a_snapshot_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut state = start();
        let mut stored: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (key, record) in [
            (Key::Mesh, record::encode(&state.mesh.record)),
            (Key::Namespace(space()), record::encode(&state.namespaces[&space()].record)),
            (Key::Namespace(label("other")), record::encode(&state.namespaces[&label("other")].record)),
        ] {
            stored.insert(key.to_string(), record);
        }
        let mut history = vec![state.desired(&space()).unwrap()];
        for step in &steps {
            let draft = decide(&state, step);
            if draft.is_empty() {
                continue;
            }
            let batch = batch(&state, &draft);
            for (key, value) in batch.changes.clone() {
                match value {
                    Some(value) => stored.insert(key, value),
                    None => stored.remove(&key),
                };
            }
            let effects = state.apply(&batch).unwrap();
            prop_assert!(effects.updated.contains(&space()));
            history.push(state.desired(&space()).unwrap());
        }
        let newest = state.desired(&space()).unwrap();
        for earlier in history {
            let changes = state.namespaces[&space()].log.since(earlier.version).unwrap();
            let mut followed = earlier;
            changes.into_iter().for_each(|change| followed.apply(change));
            followed.version = newest.version;
            prop_assert_eq!(&followed, &newest);
        }
        let entries = stored.into_iter().map(|(key, value)| Entry { key, value, modified: 1 });
        let loaded = State::load(&View { revision: 1, entries: entries.collect() }).unwrap();
        prop_assert_eq!(loaded.desired(&space()), state.desired(&space()));
        prop_assert_eq!(loaded.desired(&label("other")), state.desired(&label("other")));
        prop_assert_eq!(loaded.deny_list(), state.deny_list());
    }

    /// After missed revisions the same holds, by the difference of the whole.
    #[test]
    fn a_relisted_state_leads_there_too(steps in prop::collection::vec(step(), 1..20)) {
        let mut followed = start();
        let before = followed.desired(&space()).unwrap();
        let mut ahead = followed.clone();
        for step in &steps {
            let draft = decide(&ahead, step);
            if !draft.is_empty() {
                let batch = batch(&ahead, &draft);
                ahead.apply(&batch).unwrap();
            }
        }
        let newest = ahead.desired(&space()).unwrap();
        followed.replace(ahead);
        let changes = followed.namespaces[&space()].log.since(before.version).unwrap();
        let mut desired = before;
        changes.into_iter().for_each(|change| desired.apply(change));
        desired.version = newest.version;
        prop_assert_eq!(desired, newest);
    }
}

#[test]
fn a_flapping_route_is_one_change() {
    let mut state = start();
    let edge = Step::Edge { name: 0, third: 1, endpoint: false };
    let first = batch(&state, &decide(&state, &edge));
    state.apply(&first).unwrap();
    let before = state.version(&space()).unwrap();
    for _ in 0..100 {
        for step in [Step::Route { name: 0, edge: 0, third: 1 }, Step::RouteGone { name: 0 }] {
            let batch = batch(&state, &decide(&state, &step));
            state.apply(&batch).unwrap();
        }
    }
    let changes = state.namespaces[&space()].log.since(before).unwrap();
    assert_eq!(changes, [Change::PrefixGone { net: "10.1.1.0/24".parse().unwrap() }]);
}

#[test]
fn other_namespaces_hear_nothing() {
    let mut state = start();
    let other = label("other");
    let before = (state.version(&other), state.desired(&other));
    let edge = Step::Edge { name: 0, third: 1, endpoint: true };
    let batch = batch(&state, &decide(&state, &edge));
    let effects = state.apply(&batch).unwrap();
    assert_eq!(effects.updated, BTreeSet::from([space()]));
    assert_eq!((state.version(&other), state.desired(&other)), before);
}

#[test]
fn a_damaged_value_is_named_and_nothing_of_it_is_taken_in() {
    let mut state = start();
    let before = state.desired(&space());
    let batch = Batch {
        revision: 2,
        changes: vec![(
            Key::Edge(space(), label("a")).to_string(),
            Some(b"{\"schema\":1}".to_vec()),
        )],
    };
    let error = state.apply(&batch).unwrap_err();
    assert!(error.to_string().contains("/cframe/v1/edges/prod/a"), "{error}");
    assert_eq!((state.revision, state.desired(&space())), (1, before));
    let later = Batch {
        revision: 2,
        changes: vec![(Key::Admin(label("a")).to_string(), Some(b"{\"schema\":2}".to_vec()))],
    };
    assert!(state.apply(&later).unwrap_err().to_string().contains("schema 2"));
}

#[test]
fn a_store_without_a_mesh_says_what_to_do() {
    let error = State::load(&View { revision: 0, entries: Vec::new() }).unwrap_err();
    assert!(error.to_string().contains("cframe-controller init"), "{error}");
}

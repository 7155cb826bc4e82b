use std::{collections::BTreeSet, sync::RwLock};

use cframe_pki::{CertificateDer, bundle::TrustBundle};
use cframe_protocol::{
    desired::Assembler,
    frame::Decoder,
    v1::{Settings, Update},
};
use cframe_store::{Batch, Entry, Op, View};

use super::*;
use crate::{
    decide::draft::Draft,
    model::record::{self, CertRecord, EdgeRecord, Key, MeshRecord, NamespaceRecord, RouteRecord},
};

fn space() -> Label {
    "prod".parse().unwrap()
}

fn route(number: usize) -> (Key, RouteRecord) {
    let prefix = format!("10.{}.{}.0/24", number / 256, number % 256).parse().unwrap();
    let name = format!("r{number}").parse().unwrap();
    (Key::Route(space(), name), RouteRecord { prefix, edge: "e".parse().unwrap() })
}

/// A namespace of one edge with so many routes.
fn state(routes: usize) -> RwLock<State> {
    let mesh = MeshRecord {
        name: "m".parse().unwrap(),
        epoch: 1,
        revision: 1,
        trust: TrustBundle {
            roots: vec![CertificateDer::from(vec![1])],
            revoked_issuers: BTreeSet::new(),
        },
        controllers: BTreeSet::new(),
        roots_since: std::collections::BTreeMap::new(),
    };
    let settings = Settings::default();
    let namespace = NamespaceRecord { description: String::new(), settings, revision: 1 };
    let edge = EdgeRecord::default();
    let mut entries = vec![
        entry(Key::Mesh, record::encode(&mesh)),
        entry(Key::Namespace(space()), record::encode(&namespace)),
        entry(Key::Edge(space(), "e".parse().unwrap()), record::encode(&edge)),
    ];
    let routes = (0..routes).map(route);
    entries.extend(routes.map(|(key, route)| entry(key, record::encode(&route))));
    RwLock::new(State::load(&View { revision: 1, entries }).unwrap())
}

fn entry(key: Key, value: Vec<u8>) -> Entry {
    Entry { key: key.to_string(), value, modified: 1 }
}

/// Adds a route. Returns the version that has it.
fn edit(state: &RwLock<State>, number: usize) -> Version {
    let mut state = state.write().unwrap();
    let mut draft = Draft::within(&space(), &state.namespaces[&space()]);
    let (key, route) = route(number);
    draft.put(key, &route);
    draft.bump_namespace(&space(), &state.namespaces[&space()]);
    commit(&mut state, draft)
}

fn commit(state: &mut State, draft: Draft) -> Version {
    let changes = draft.txn.ops.into_iter().map(|op| match op {
        Op::Put { key, value } => (key, Some(value)),
        Op::Delete { key } => (key, None),
    });
    let batch = Batch { revision: state.revision + 1, changes: changes.collect() };
    state.apply(&batch).unwrap();
    state.version(&space()).unwrap()
}

/// Denies a certificate. Returns the version that has this.
fn deny(state: &RwLock<State>) -> Version {
    let mut state = state.write().unwrap();
    let id = state.edge_id(&space(), &"e".parse().unwrap());
    let cert = CertRecord {
        id,
        spki: cframe_pki::Fingerprint::from_bytes([1; 32]),
        not_before: 0,
        not_after: 1,
        renews: None,
        issuer: None,
        bundle: None,
    };
    let mut draft = Draft::default();
    draft.deny(&state, cframe_pki::Serial::from_bytes([1; 16]), &cert, 0, "");
    commit(&mut state, draft)
}

/// The state of an edge that applies the frames.
fn follow(assembler: &mut Assembler, frames: &Frames) -> Version {
    let mut decoder = Decoder::new(frame::MAX_FRAME);
    for bytes in &frames.frames {
        decoder.push(bytes);
        let frame = decoder.next_frame().unwrap().unwrap();
        assembler.push(frame.decode::<Update>().unwrap()).unwrap();
    }
    assembler.version().unwrap()
}

#[test]
fn a_version_is_encoded_once_for_all_edges_with_the_same_old_version() {
    let state = state(10);
    let mut version = state.read().unwrap().version(&space()).unwrap();
    let feed = Feed::new(version);
    for number in 10..15 {
        let next = edit(&state, number);
        for _ in 0..1_000 {
            let frames = feed.frames(&state, &space(), Some(version)).unwrap().unwrap();
            assert_eq!((frames.from, frames.to), (Some(version), next));
            assert!(frames.frames.iter().map(Bytes::len).sum::<usize>() <= 100);
        }
        version = next;
    }
    assert_eq!(feed.encoded(), Encoded { snapshots: 0, differences: 5 });
}

#[test]
fn new_edges_between_edits_share_a_snapshot_until_an_eighth_of_it_has_changed() {
    const ROUTES: usize = 800;
    let state = state(ROUTES);
    let feed = Feed::new(state.read().unwrap().version(&space()).unwrap());
    let edits = 2 * ROUTES / SNAPSHOT_SHARE;
    for number in ROUTES..ROUTES + edits {
        let newest = edit(&state, number);
        let mut edge = Assembler::default();
        let mut updates = 0;
        while edge.version() != Some(newest) {
            let frames = feed.frames(&state, &space(), edge.version()).unwrap().unwrap();
            follow(&mut edge, &frames);
            updates += 1;
        }
        assert!(updates <= 2, "{updates} updates");
        let desired = state.read().unwrap().desired(&space()).unwrap();
        assert_eq!(**edge.current().unwrap(), desired);
    }
    let Encoded { snapshots, .. } = feed.encoded();
    assert!(snapshots <= 3, "{snapshots} snapshots for {edits} edges");
}

#[test]
fn an_edge_is_never_sent_back_to_a_stored_snapshot() {
    let state = state(100);
    let old = state.read().unwrap().version(&space()).unwrap();
    let feed = Feed::new(old);
    feed.frames(&state, &space(), None).unwrap();
    let stored = feed.frames(&state, &space(), None).unwrap().unwrap();
    let newest = edit(&state, 100);
    // A version between the two that this controller has never seen: it has no changes from there, and the stored snapshot is
    // older.
    let have = Version { mesh: old.mesh + 1, ..old };
    assert!(!stored.to.at_least(&have));
    let frames = feed.frames(&state, &space(), Some(have)).unwrap().unwrap();
    assert_eq!((frames.from, frames.to), (None, newest));
    assert_eq!(feed.encoded().snapshots, 2);
}

#[test]
fn an_edge_s_first_state_has_every_denial() {
    let state = state(100);
    let feed = Feed::new(state.read().unwrap().version(&space()).unwrap());
    feed.frames(&state, &space(), None).unwrap();
    let denied = deny(&state);
    let frames = feed.frames(&state, &space(), None).unwrap().unwrap();
    assert_eq!((frames.from, frames.to), (None, denied));
    let mut edge = Assembler::default();
    follow(&mut edge, &frames);
    assert_eq!(edge.current().unwrap().denied.len(), 1);
}

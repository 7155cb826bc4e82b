//! A small mesh for tests: namespace `prod` with edge `hk`, one unused token, and the read-only admin `alice`.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{CertificateDer, Fingerprint, bundle::TrustBundle, identity::Label};
use cframe_store::{Entry, View};
use serde::Serialize;

use super::{
    State,
    record::{
        self, AdminRecord, EdgeRecord, Key, MeshRecord, NamespaceRecord, TokenKey, TokenRecord,
    },
};

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub(crate) fn entry(key: &Key, value: &impl Serialize) -> Entry {
    Entry { key: key.to_string(), value: record::encode(value), modified: 3 }
}

pub(crate) fn edge(cidrs: &[&str]) -> EdgeRecord {
    EdgeRecord {
        description: "Hong Kong".to_owned(),
        cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        endpoints: vec!["hk.example.com:58423".parse().unwrap()],
        ..EdgeRecord::default()
    }
}

pub(crate) fn token() -> TokenRecord {
    TokenRecord {
        namespace: label("prod"),
        edge: label("hk"),
        secret_hash: Fingerprint::from_bytes([0xab; 32]),
        created: 1,
        expires: 2,
        rejoin: false,
        created_by: "alice".to_owned(),
        used: None,
    }
}

pub(crate) fn mesh(roots: usize) -> MeshRecord {
    let root = |n: usize| CertificateDer::from(vec![n as u8; 400]);
    MeshRecord {
        name: "m".parse().unwrap(),
        epoch: 7,
        revision: 1,
        trust: TrustBundle {
            roots: (0..roots).map(root).collect(),
            revoked_issuers: BTreeSet::new(),
        },
        controllers: BTreeSet::new(),
        roots_since: BTreeMap::new(),
    }
}

pub(crate) fn state() -> State {
    let (prod, hk) = (label("prod"), label("hk"));
    let namespace =
        NamespaceRecord { description: String::new(), settings: Default::default(), revision: 4 };
    let entries = vec![
        entry(&Key::Mesh, &mesh(1)),
        entry(&Key::Namespace(prod.clone()), &namespace),
        entry(&Key::Edge(prod, hk), &edge(&["172.30.0.0/16"])),
        entry(&Key::Token(TokenKey([1; 16])), &token()),
        entry(&Key::Admin(label("alice")), &AdminRecord { read_only: true }),
    ];
    State::load(&View { revision: 9, entries }).unwrap()
}

//! The difference of two states.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Namespace, State, record::Key};

impl State {
    /// The keys whose records or revisions differ.
    pub fn differences(&self, other: &Self) -> Vec<Key> {
        let mut found = Vec::new();
        // All fields by name, so that a new field cannot be forgotten. Indexes follow from the other fields.
        let Self {
            revision: _,
            mesh,
            namespaces,
            tokens,
            certs,
            certs_of: _,
            denied,
            admins,
            controllers,
            alive,
            issuers,
        } = self;
        if *mesh != other.mesh {
            found.push(Key::Mesh);
        }
        maps(tokens, &other.tokens, |id| Key::Token(*id), &mut found);
        maps(certs, &other.certs, |serial| Key::Cert(*serial), &mut found);
        maps(denied, &other.denied, |serial| Key::Denied(*serial), &mut found);
        maps(admins, &other.admins, |name| Key::Admin(name.clone()), &mut found);
        let key = |name: &_| Key::Controller(Clone::clone(name));
        maps(controllers, &other.controllers, key, &mut found);
        maps(issuers, &other.issuers, |spki| Key::Issuer(*spki), &mut found);
        maps(alive, &other.alive, |name| Key::Alive(name.clone()), &mut found);
        let names: BTreeSet<_> = namespaces.keys().chain(other.namespaces.keys()).collect();
        for name in names {
            let (one, other) = (namespaces.get(name), other.namespaces.get(name));
            let record = |space: &Namespace| (space.record.clone(), space.modified);
            if one.map(record) != other.map(record) {
                found.push(Key::Namespace(name.clone()));
            }
            let (Some(one), Some(other)) = (one, other) else { continue };
            let key = |edge: &_| Key::Edge(name.clone(), Clone::clone(edge));
            maps(&one.edges, &other.edges, key, &mut found);
            let key = |route: &_| Key::Route(name.clone(), Clone::clone(route));
            maps(&one.routes, &other.routes, key, &mut found);
        }
        found
    }
}

fn maps<K: Ord, T: PartialEq>(
    one: &BTreeMap<K, T>,
    other: &BTreeMap<K, T>,
    key: impl Fn(&K) -> Key,
    found: &mut Vec<Key>,
) {
    let changed = one.iter().filter(|(name, record)| other.get(name) != Some(record));
    found.extend(changed.map(|(name, _)| key(name)));
    found.extend(other.keys().filter(|name| !one.contains_key(name)).map(key));
}

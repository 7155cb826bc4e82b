//! Applying one revision to the state, and what it changes for the edges.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{
    Serial,
    bundle::DenyEntry,
    identity::{Label, Role},
};
use cframe_protocol::v1::Change;
use cframe_store::{Batch, Revision};

use super::{Effects, LoadError, State};
use crate::model::{
    Namespace, Stored,
    log::Log,
    record::{Key, MeshRecord, NamespaceRecord, Record},
};

impl State {
    /// Applies one revision. After an error nothing has changed.
    pub fn apply(&mut self, batch: &Batch) -> Result<Effects, LoadError> {
        let mut removed = Vec::new();
        let mut put = Vec::new();
        for (key, value) in &batch.changes {
            let key: Key = key.parse()?;
            match value {
                Some(value) => put.push(Record::decode(key, value)?),
                None if key == Key::Mesh => return Err(LoadError::NoMesh),
                None => removed.push(key),
            }
        }
        put.sort_by_key(|record| !matches!(record, Record::Namespace(..)));
        self.check_namespaces(&put, &removed)?;
        self.revision = batch.revision;
        let mut touched = Touched::default();
        // Removals come before additions, and contents before their namespace.
        removed.sort_by_key(|key| matches!(key, Key::Namespace(_)));
        for key in removed {
            self.remove(&key, &mut touched);
        }
        for record in put {
            self.put(record, batch.revision, &mut touched)?;
        }
        Ok(self.finish(touched))
    }

    fn check_namespaces(&self, put: &[Record], removed: &[Key]) -> Result<(), LoadError> {
        let made: BTreeSet<&Label> = put
            .iter()
            .filter_map(
                |record| {
                    if let Record::Namespace(name, _) = record { Some(name) } else { None }
                },
            )
            .collect();
        for record in put {
            if let Record::Edge(space, name, _) | Record::Route(space, name, _) = record
                && !made.contains(space)
                && (!self.namespaces.contains_key(space)
                    || removed.contains(&Key::Namespace(space.clone())))
            {
                return Err(LoadError::NoNamespace(name.to_string(), space.clone()));
            }
        }
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        record: Record,
        modified: Revision,
        touched: &mut Touched,
    ) -> Result<(), LoadError> {
        match record {
            Record::Mesh(record) => self.put_mesh(record, modified, touched),
            Record::Namespace(name, record) => self.put_namespace(name, record, modified, touched),
            Record::Edge(space, name, record) => {
                self.namespace_of(&space, &name)?.put_edge(
                    &name,
                    Stored { record, modified },
                    touched.of(&space),
                );
            }
            Record::Route(space, name, record) => {
                self.namespace_of(&space, &name)?.put_route(
                    &name,
                    Stored { record, modified },
                    touched.of(&space),
                );
            }
            Record::Token(id, record) => {
                self.tokens.insert(id, Stored { record, modified });
            }
            Record::Cert(serial, record) => {
                self.certs_of.entry(record.id.clone()).or_default().insert(serial);
                self.certs.insert(serial, Stored { record, modified });
            }
            Record::Denied(serial, record) => {
                touched.deny(Change::Denied(record.entry.clone()), &record.entry);
                self.denied.insert(serial, Stored { record, modified });
            }
            Record::Admin(name, record) => {
                self.admins.insert(name, Stored { record, modified });
            }
            Record::Controller(name, record) => {
                self.controllers.insert(name, Stored { record, modified });
            }
            Record::Alive(name, record) => {
                self.alive.insert(name, Stored { record, modified });
            }
            Record::Issuer(spki, record) => {
                self.issuers.insert(spki, Stored { record, modified });
            }
        }
        Ok(())
    }

    fn namespace_of(&mut self, space: &Label, name: &Label) -> Result<&mut Namespace, LoadError> {
        self.namespaces
            .get_mut(space)
            .ok_or_else(|| LoadError::NoNamespace(name.to_string(), space.clone()))
    }

    fn put_mesh(&mut self, record: MeshRecord, modified: Revision, touched: &mut Touched) {
        let old = &self.mesh.record;
        if old.trust != record.trust {
            touched.all.push(Change::Trust(record.trust.clone()));
            touched.trust = true;
        }
        if old.controllers != record.controllers {
            touched.all.push(Change::Controllers(record.controllers.clone()));
        }
        touched.every |= old.revision != record.revision;
        self.mesh = Stored { record, modified };
    }

    fn put_namespace(
        &mut self,
        name: Label,
        record: NamespaceRecord,
        modified: Revision,
        touched: &mut Touched,
    ) {
        let changes = touched.of(&name);
        if let Some(namespace) = self.namespaces.get_mut(&name) {
            if namespace.record.settings != record.settings {
                changes.push(Change::Settings(record.settings));
            }
            namespace.record = record;
            namespace.modified = modified;
        } else {
            touched.new.insert(name.clone());
            self.namespaces.insert(name, Namespace::new(record, modified));
        }
    }

    fn remove(&mut self, key: &Key, touched: &mut Touched) {
        match key {
            // Refused above.
            Key::Mesh => {}
            Key::Namespace(name) => {
                if let Some(namespace) = self.namespaces.remove(name) {
                    let edges = namespace.edges.into_keys();
                    touched.removed_edges.extend(edges.map(|edge| (name.clone(), edge)));
                    touched.removed.insert(name.clone());
                }
            }
            Key::Edge(space, name) => {
                if let Some(namespace) = self.namespaces.get_mut(space)
                    && namespace.remove_edge(name, touched.of(space))
                {
                    touched.removed_edges.insert((space.clone(), name.clone()));
                }
            }
            Key::Route(space, name) => {
                if let Some(namespace) = self.namespaces.get_mut(space) {
                    namespace.remove_route(name, touched.of(space));
                }
            }
            Key::Token(id) => {
                self.tokens.remove(id);
            }
            Key::Cert(serial) => self.remove_cert(serial),
            Key::Denied(serial) => {
                if let Some(denied) = self.denied.remove(serial) {
                    let entry = denied.record.entry;
                    touched.deny(Change::NotDenied(entry.clone()), &entry);
                }
            }
            Key::Admin(name) => {
                self.admins.remove(name);
            }
            Key::Controller(name) => {
                self.controllers.remove(name);
                touched.trust = true;
            }
            Key::Alive(name) => {
                self.alive.remove(name);
            }
            Key::Issuer(spki) => {
                self.issuers.remove(spki);
            }
        }
    }

    fn remove_cert(&mut self, serial: &Serial) {
        let Some(cert) = self.certs.remove(serial) else { return };
        if let Some(serials) = self.certs_of.get_mut(&cert.record.id) {
            serials.remove(serial);
            if serials.is_empty() {
                self.certs_of.remove(&cert.record.id);
            }
        }
    }

    fn finish(&mut self, mut touched: Touched) -> Effects {
        let names: BTreeSet<Label> = if touched.every || !touched.all.is_empty() {
            self.namespaces.keys().cloned().collect()
        } else {
            touched.namespaces.keys().cloned().collect()
        };
        let mut effects = Effects {
            updated: BTreeSet::new(),
            removed: touched.removed,
            removed_edges: touched.removed_edges,
            trust: touched.trust,
        };
        for name in names {
            let Some(version) = self.version(&name) else { continue };
            let Some(namespace) = self.namespaces.get_mut(&name) else { continue };
            if touched.new.contains(&name) {
                namespace.log = Log::new(version);
            } else {
                let mut changes = touched.all.clone();
                changes.extend(touched.namespaces.remove(&name).unwrap_or_default());
                if !namespace.log.push(version, changes) {
                    continue;
                }
            }
            effects.updated.insert(name);
        }
        effects
    }
}

/// What one revision changes, before the affected namespaces are known.
#[derive(Default)]
pub(super) struct Touched {
    namespaces: BTreeMap<Label, Vec<Change>>,
    /// For every namespace.
    all: Vec<Change>,
    /// The mesh's revision changed, so every namespace's version did.
    every: bool,
    new: BTreeSet<Label>,
    removed: BTreeSet<Label>,
    removed_edges: BTreeSet<(Label, Label)>,
    trust: bool,
}

impl Touched {
    fn of(&mut self, namespace: &Label) -> &mut Vec<Change> {
        self.namespaces.entry(namespace.clone()).or_default()
    }

    fn deny(&mut self, change: Change, entry: &DenyEntry) {
        self.trust = true;
        match &entry.id.role {
            Role::Edge { namespace, .. } => self.of(namespace).push(change),
            Role::Controller { .. } => self.all.push(change),
            // Edges never accept admins.
            Role::Admin { .. } => {}
        }
    }
}

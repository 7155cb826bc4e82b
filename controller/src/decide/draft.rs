//! A write that was decided on a [`State`] and not yet committed.
//!
//! A change of a namespace's desired state compares the namespace's record and increments its revision: of two writers
//! that decided on the same state, one has to decide again. Issuing a certificate compares that record too, and writes
//! the holder's record again, so that a concurrent revocation or removal is never missed, whichever comes first.

use cframe_pki::{
    Serial,
    bundle::DenyEntry,
    identity::{Label, Role},
};
use cframe_store::{Compare, Op, Revision, Txn};
use serde::Serialize;

use crate::{
    keys::issuer::Issued,
    model::{
        Namespace, State, Stored,
        record::{self, CertRecord, DeniedRecord, Key, MeshRecord, NamespaceRecord},
    },
};

#[derive(Debug, Default)]
pub struct Draft {
    pub txn: Txn,
    pub warnings: Vec<String>,
    /// The reply has this namespace's version.
    pub namespace: Option<Label>,
}

impl Draft {
    /// A write in a namespace, whose record it compares.
    pub fn within(name: &Label, space: &Namespace) -> Self {
        let mut draft = Self { namespace: Some(name.clone()), ..Self::default() };
        draft.compare(Key::Namespace(name.clone()), space.modified);
        draft
    }

    /// Requires that a key was last written at `modified`; 0 means absent.
    pub fn compare(&mut self, key: Key, modified: Revision) {
        let compare = Compare { key: key.to_string(), modified };
        if !self.txn.compares.contains(&compare) {
            self.txn.compares.push(compare);
        }
    }

    pub fn put<T: Serialize>(&mut self, key: Key, record: &T) {
        let (key, value) = (key.to_string(), record::encode(record));
        debug_assert!(self.txn.ops.iter().all(|op| op.key() != key), "{key} is written twice");
        self.txn.ops.push(Op::Put { key, value });
    }

    /// Writes a record again as it is: other writers that decided on it have to decide again.
    pub fn rewrite<T: Serialize>(&mut self, key: Key, stored: &Stored<T>) {
        self.compare(key.clone(), stored.modified);
        if !self.writes(&key) {
            self.put(key, &stored.record);
        }
    }

    /// Deletes a record, and requires that it is unchanged.
    pub fn delete(&mut self, key: Key, modified: Revision) {
        self.compare(key.clone(), modified);
        self.delete_unchecked(key);
    }

    /// Deletes a record that another comparison guards.
    pub fn delete_unchecked(&mut self, key: Key) {
        self.txn.ops.push(Op::Delete { key: key.to_string() });
    }

    /// Records a certificate.
    pub fn put_cert(&mut self, issued: &Issued) {
        let key = Key::Cert(issued.certificate.serial);
        self.compare(key.clone(), 0);
        self.put(key, &issued.record);
    }

    /// Increments a namespace's revision, once.
    pub fn bump_namespace(&mut self, name: &Label, space: &Namespace) {
        self.bump_namespace_to(name, space, space.record.clone());
    }

    /// Increments a namespace's revision with new contents of its record.
    pub fn bump_namespace_to(
        &mut self,
        name: &Label,
        space: &Namespace,
        mut record: NamespaceRecord,
    ) {
        let key = Key::Namespace(name.clone());
        self.compare(key.clone(), space.modified);
        if self.writes(&key) {
            return;
        }
        record.revision = space.record.revision + 1;
        self.put(key, &record);
    }

    /// Increments the mesh's revision with new contents of its record.
    pub fn bump_mesh(&mut self, mesh: &Stored<MeshRecord>, mut record: MeshRecord) {
        self.compare(Key::Mesh, mesh.modified);
        if self.writes(&Key::Mesh) {
            return;
        }
        record.revision = mesh.record.revision + 1;
        self.put(Key::Mesh, &record);
    }

    /// Denies a certificate, and increments the revision of those who must know.
    pub fn deny(&mut self, state: &State, serial: Serial, cert: &CertRecord, at: u64, why: &str) {
        if state.denied.contains_key(&serial) || self.writes(&Key::Denied(serial)) {
            return;
        }
        let entry =
            DenyEntry { id: cert.id.clone(), serial, spki: cert.spki, expires: cert.not_after };
        self.compare(Key::Denied(serial), 0);
        self.put(Key::Denied(serial), &DeniedRecord { entry, at, reason: why.to_owned() });
        self.bump_for(state, &cert.id.role);
    }

    /// Increments the revision that a change of the deny-list about this holder affects.
    pub fn bump_for(&mut self, state: &State, holder: &Role) {
        match holder {
            Role::Edge { namespace, .. } => {
                // The same write may delete the namespace.
                if let Some(space) = state.namespaces.get(namespace)
                    && !self.writes(&Key::Namespace(namespace.clone()))
                {
                    self.bump_namespace(namespace, space);
                }
            }
            Role::Controller { .. } => self.bump_mesh(&state.mesh, state.mesh.record.clone()),
            Role::Admin { .. } => {}
        }
    }

    /// Returns a key that the draft writes without a comparison, so that a concurrent write to it would be lost. It must
    /// be `None`. Edges and routes are guarded by
    /// their namespace's record, which every write to them increments, and new certificates by their random serials.
    pub fn unguarded(&self) -> Option<&str> {
        let compares = |key: &str| self.txn.compares.iter().any(|compare| compare.key == key);
        let guarded = |op: &Op| match op.key().parse() {
            Ok(Key::Edge(namespace, _) | Key::Route(namespace, _)) => {
                let namespace = Key::Namespace(namespace);
                self.writes(&namespace) && compares(&namespace.to_string())
            }
            Ok(Key::Cert(_)) => matches!(op, Op::Put { .. }),
            _ => false,
        };
        let mut keys = self.txn.ops.iter();
        keys.find(|op| !compares(op.key()) && !guarded(op)).map(Op::key)
    }

    /// Effects or comparisons, whichever are more; [`cframe_store::Store::max_ops`] limits both.
    pub fn size(&self) -> usize {
        self.txn.ops.len().max(self.txn.compares.len())
    }

    pub fn is_empty(&self) -> bool {
        self.txn.ops.is_empty()
    }

    fn writes(&self, key: &Key) -> bool {
        let key = key.to_string();
        self.txn.ops.iter().any(|op| op.key() == key)
    }
}

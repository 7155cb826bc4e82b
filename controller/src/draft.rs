//! A write on its way: the decision that was taken upon a [`State`], as a transaction.
//!
//! Whatever changes a namespace's desired state compares the namespace's record and counts its revision
//! up, so that of two writers who decided upon the same state one has to decide again. Whatever issues a
//! certificate compares the record too, and writes the holder's own record again: so it never slips past a
//! revocation or a removal, whichever of the two comes first.

use cframe_pki::{
    Serial,
    bundle::DenyEntry,
    identity::{Label, Role},
};
use cframe_store::{Compare, Op, Revision, Txn};
use serde::Serialize;

use crate::{
    model::{Namespace, State, Stored},
    record::{self, Key},
};

/// A decided write.
#[derive(Debug, Default)]
pub struct Draft {
    /// What is to happen.
    pub txn: Txn,
    /// What the caller should look at twice.
    pub warnings: Vec<String>,
    /// The namespace whose version answers for the write.
    pub namespace: Option<Label>,
}

impl Draft {
    /// A write in a namespace: compares its record.
    pub fn within(name: &Label, space: &Namespace) -> Self {
        let mut draft = Self { namespace: Some(name.clone()), ..Self::default() };
        draft.compare(Key::Namespace(name.clone()), space.modified);
        draft
    }

    /// Demands that a key is as the decision saw it; 0 for absent.
    pub fn compare(&mut self, key: Key, modified: Revision) {
        let compare = Compare { key: key.to_string(), modified };
        if !self.txn.compares.contains(&compare) {
            self.txn.compares.push(compare);
        }
    }

    /// Sets a record.
    pub fn put<T: Serialize>(&mut self, key: Key, record: &T) {
        let (key, value) = (key.to_string(), record::encode(record));
        debug_assert!(self.txn.ops.iter().all(|op| op.key() != key), "{key} is written twice");
        self.txn.ops.push(Op::Put { key, value });
    }

    /// Writes a record again as it is, so that whoever has decided upon it too has to decide again.
    pub fn rewrite<T: Serialize>(&mut self, key: Key, stored: &Stored<T>) {
        self.compare(key.clone(), stored.modified);
        if !self.writes(&key) {
            self.put(key, &stored.record);
        }
    }

    /// Removes a record, if it is as the decision saw it.
    pub fn remove(&mut self, key: Key, modified: Revision) {
        self.compare(key.clone(), modified);
        self.delete(key);
    }

    /// Removes a record that something else guards.
    pub fn delete(&mut self, key: Key) {
        self.txn.ops.push(Op::Delete { key: key.to_string() });
    }

    /// Counts a namespace's revision up, unless that is done.
    pub fn bump(&mut self, name: &Label, space: &Namespace) {
        self.bump_as(name, space, space.record.clone());
    }

    /// The same with other contents of the namespace's record.
    pub fn bump_as(&mut self, name: &Label, space: &Namespace, mut record: record::Namespace) {
        let key = Key::Namespace(name.clone());
        self.compare(key.clone(), space.modified);
        if self.writes(&key) {
            return;
        }
        record.revision = space.record.revision + 1;
        self.put(key, &record);
    }

    /// Counts the mesh's revision up, with other contents of its record.
    pub fn bump_mesh(&mut self, mesh: &Stored<record::Mesh>, mut record: record::Mesh) {
        self.compare(Key::Mesh, mesh.modified);
        if self.writes(&Key::Mesh) {
            return;
        }
        record.revision = mesh.record.revision + 1;
        self.put(Key::Mesh, &record);
    }

    /// Denies a certificate. What follows of it for the desired state is counted too.
    pub fn deny(&mut self, state: &State, serial: Serial, cert: &record::Cert, at: u64, why: &str) {
        if state.denied.contains_key(&serial) || self.writes(&Key::Denied(serial)) {
            return;
        }
        let entry =
            DenyEntry { id: cert.id.clone(), serial, spki: cert.spki, expires: cert.not_after };
        self.compare(Key::Denied(serial), 0);
        self.put(Key::Denied(serial), &record::Denied { entry, at, reason: why.to_owned() });
        self.concern(state, &cert.id.role);
    }

    /// Counts up what a change of the deny-list about this holder changes.
    pub fn concern(&mut self, state: &State, holder: &Role) {
        match holder {
            Role::Edge { namespace, .. } => {
                // A namespace that goes in the same write needs no new revision.
                if let Some(space) = state.namespaces.get(namespace)
                    && !self.writes(&Key::Namespace(namespace.clone()))
                {
                    self.bump(namespace, space);
                }
            }
            Role::Controller { .. } => self.bump_mesh(&state.mesh, state.mesh.record.clone()),
            Role::Admin { .. } => {}
        }
    }

    /// A key that this would write over what others have written since the decision, which no draft may. Edges and
    /// routes are guarded by their namespace's record, which whoever writes them counts up; new certificates
    /// by their random serials.
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

    /// How much of a transaction it takes up, of what [`cframe_store::Store::max_ops`] allows.
    pub fn size(&self) -> usize {
        self.txn.ops.len().max(self.txn.compares.len())
    }

    /// Whether nothing is to happen.
    pub fn is_empty(&self) -> bool {
        self.txn.ops.is_empty()
    }

    fn writes(&self, key: &Key) -> bool {
        let key = key.to_string();
        self.txn.ops.iter().any(|op| op.key() == key)
    }
}

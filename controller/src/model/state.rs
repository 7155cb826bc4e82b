//! The store's content in memory, with indexes.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{
    Fingerprint, Serial,
    bundle::DenyList,
    identity::{Label, SpiffeId},
};
use cframe_protocol::v1::{Desired, Version};
use cframe_store::{Revision, View};
use thiserror::Error;

use super::{
    Namespace, Stored,
    log::Log,
    record::{
        AdminRecord, AliveRecord, CertRecord, ControllerRecord, DeniedRecord, IssuerRecord,
        MeshRecord, Record, RecordError, TokenKey, TokenRecord,
    },
};

mod apply;
#[cfg(test)]
mod tests;

use apply::Touched;

/// The store's content as of one revision.
#[derive(Debug, Clone)]
pub struct State {
    pub revision: Revision,
    pub mesh: Stored<MeshRecord>,
    pub namespaces: BTreeMap<Label, Namespace>,
    /// Including used ones, until they expire.
    pub tokens: BTreeMap<TokenKey, Stored<TokenRecord>>,
    pub certs: BTreeMap<Serial, Stored<CertRecord>>,
    /// The serials of `certs` by holder.
    pub certs_of: BTreeMap<SpiffeId, BTreeSet<Serial>>,
    /// Denied certificates of all holders.
    pub denied: BTreeMap<Serial, Stored<DeniedRecord>>,
    pub admins: BTreeMap<Label, Stored<AdminRecord>>,
    /// Registered controllers, whether they run or not.
    pub controllers: BTreeMap<Label, Stored<ControllerRecord>>,
    /// What running controllers advertise.
    pub alive: BTreeMap<Label, Stored<AliveRecord>>,
    /// Issuing CAs by their public keys.
    pub issuers: BTreeMap<Fingerprint, Stored<IssuerRecord>>,
}

/// What follows from a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Namespaces with a new version.
    pub updated: BTreeSet<Label>,
    /// Removed namespaces.
    pub removed: BTreeSet<Label>,
    /// Removed edges: namespace and name.
    pub removed_edges: BTreeSet<(Label, Label)>,
    /// Whether the trust bundle or the deny-list changed, or a controller was removed.
    pub trust: bool,
}

/// Why the store's content cannot be used.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum LoadError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the store has no mesh: make one with `cframe-controller init`")]
    NoMesh,
    #[error("the store is corrupt: {0} belongs to namespace {1}, which is missing")]
    NoNamespace(String, Label),
}

impl State {
    pub fn load(view: &View) -> Result<Self, LoadError> {
        let mut mesh = None;
        let mut changes = Vec::with_capacity(view.entries.len());
        for entry in &view.entries {
            let record = Record::decode(entry.key.parse()?, &entry.value)?;
            if let Record::Mesh(record) = record {
                mesh = Some(Stored { record, modified: entry.modified });
            } else {
                changes.push((entry.modified, record));
            }
        }
        let mut state = Self::empty(mesh.ok_or(LoadError::NoMesh)?, view.revision);
        // Namespaces first: edges and routes are put into them.
        changes.sort_by_key(|(_, record)| !matches!(record, Record::Namespace(..)));
        let mut touched = Touched::default();
        for (modified, record) in changes {
            state.put(record, modified, &mut touched)?;
        }
        let names: Vec<Label> = state.namespaces.keys().cloned().collect();
        for name in names {
            let version = state.version(&name);
            if let (Some(namespace), Some(version)) = (state.namespaces.get_mut(&name), version) {
                namespace.log = Log::new(version);
            }
        }
        Ok(state)
    }

    fn empty(mesh: Stored<MeshRecord>, revision: Revision) -> Self {
        Self {
            revision,
            mesh,
            namespaces: BTreeMap::new(),
            tokens: BTreeMap::new(),
            certs: BTreeMap::new(),
            certs_of: BTreeMap::new(),
            denied: BTreeMap::new(),
            admins: BTreeMap::new(),
            controllers: BTreeMap::new(),
            alive: BTreeMap::new(),
            issuers: BTreeMap::new(),
        }
    }

    /// Replaces the whole state, after revisions were missed.
    pub fn replace(&mut self, mut new: Self) -> Effects {
        let mut effects = Effects { trust: true, ..Effects::default() };
        for (name, old) in &mut self.namespaces {
            let Some(version) = new.version(name) else {
                effects.removed.insert(name.clone());
                effects
                    .removed_edges
                    .extend(old.edges.keys().map(|edge| (name.clone(), edge.clone())));
                continue;
            };
            let Some(desired) = new.desired(name) else { continue };
            let Some(namespace) = new.namespaces.get_mut(name) else { continue };
            for edge in old.edges.keys().filter(|edge| !namespace.edges.contains_key(*edge)) {
                effects.removed_edges.insert((name.clone(), edge.clone()));
            }
            // At the same version nothing changes for edges.
            if old.log.newest() != version {
                let before = old.desired(name, &self.mesh.record, &self.denied);
                namespace.log = std::mem::replace(&mut old.log, Log::new(version));
                namespace.log.push(version, before.diff(&desired));
            }
        }
        effects.updated.extend(new.namespaces.keys().cloned());
        *self = new;
        effects
    }

    /// The version of a namespace's desired state.
    pub fn version(&self, namespace: &Label) -> Option<Version> {
        self.namespaces.get(namespace).map(|space| Version {
            epoch: self.mesh.record.epoch,
            mesh: self.mesh.record.revision,
            namespace: space.record.revision,
        })
    }

    /// Everything that an edge of the namespace needs.
    pub fn desired(&self, namespace: &Label) -> Option<Desired> {
        let space = self.namespaces.get(namespace)?;
        Some(space.desired(namespace, &self.mesh.record, &self.denied))
    }

    /// For the controller's own handshakes.
    pub fn deny_list(&self) -> DenyList {
        self.denied.values().map(|denied| denied.record.entry.clone()).collect()
    }

    /// The certificates of a holder that are neither denied nor expired at `now`.
    pub fn valid_certs<'a>(
        &'a self,
        id: &SpiffeId,
        now: u64,
    ) -> impl Iterator<Item = (Serial, &'a CertRecord)> + 'a {
        let serials = self.certs_of.get(id).into_iter().flatten();
        serials.filter_map(move |serial| {
            let cert = &self.certs.get(serial)?.record;
            (cert.not_after > now && !self.denied.contains_key(serial)).then_some((*serial, cert))
        })
    }

    /// Controllers that are registered and run, by what they advertise.
    pub fn running_controllers(&self) -> impl Iterator<Item = &Label> {
        self.alive.keys().filter(|name| self.controllers.contains_key(*name))
    }

    /// Whether the mesh has a controller of this name. A store from before there were registrations has none, and any name
    /// counts.
    pub fn is_controller(&self, name: &Label) -> bool {
        self.controllers.is_empty() || self.controllers.contains_key(name)
    }

    pub fn controller_id(&self, name: &Label) -> SpiffeId {
        SpiffeId::controller(self.mesh.record.name.clone(), name.clone())
    }

    pub fn edge_id(&self, namespace: &Label, edge: &Label) -> SpiffeId {
        SpiffeId::edge(self.mesh.record.name.clone(), namespace.clone(), edge.clone())
    }
}

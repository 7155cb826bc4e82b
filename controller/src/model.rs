//! The store's content in memory, with the indexes that decisions need, and what each revision changes
//! for the edges. Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{
    Fingerprint, Serial,
    bundle::{DenyEntry, DenyList},
    identity::{Label, Role, SpiffeId},
};
use cframe_protocol::v1::{Change, Desired, Version};
use cframe_store::{Batch, Revision, View};
use thiserror::Error;

use crate::record::{self, Key, Record, RecordError, TokenKey};

mod difference;
mod log;
mod namespace;
mod prefixes;
#[cfg(test)]
mod tests;

pub use log::Log;
pub use prefixes::{Prefixes, Source};

/// A record with the revision that wrote it, which a transaction compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// The revision of its last write.
    pub modified: Revision,
}

/// Everything, as of one revision.
#[derive(Debug, Clone)]
pub struct State {
    /// The revision.
    pub revision: Revision,
    /// What concerns all namespaces.
    pub mesh: Stored<record::Mesh>,
    /// The namespaces.
    pub namespaces: BTreeMap<Label, Namespace>,
    /// Join tokens, used ones too until they expire.
    pub tokens: BTreeMap<TokenKey, Stored<record::Token>>,
    /// Issued certificates.
    pub certs: BTreeMap<Serial, Stored<record::Cert>>,
    /// The same by holder.
    pub certs_of: BTreeMap<SpiffeId, BTreeSet<Serial>>,
    /// Denied certificates, of all namespaces and roles.
    pub denied: BTreeMap<Serial, Stored<record::Denied>>,
    /// Admins.
    pub admins: BTreeMap<Label, Stored<record::Admin>>,
    /// Controllers, whether they run or not.
    pub controllers: BTreeMap<Label, Stored<record::Controller>>,
    /// Controllers that run, by their own word.
    pub alive: BTreeMap<Label, Stored<record::Alive>>,
    /// Issuing CAs by their public keys.
    pub issuers: BTreeMap<Fingerprint, Stored<record::Issuer>>,
}

/// A namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// The record.
    pub record: record::Namespace,
    /// The revision of its last write.
    pub modified: Revision,
    /// Its edges.
    pub edges: BTreeMap<Label, Stored<record::Edge>>,
    /// Its routes.
    pub routes: BTreeMap<Label, Stored<record::Route>>,
    /// All prefixes, of edges and routes.
    pub prefixes: Prefixes,
    /// The last changes, so that an edge that is a little behind gets just these.
    pub log: Log,
}

/// What a revision means for others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Namespaces with a new version.
    pub updated: BTreeSet<Label>,
    /// Namespaces that are gone.
    pub gone: BTreeSet<Label>,
    /// Edges that are gone, with their namespaces.
    pub gone_edges: BTreeSet<(Label, Label)>,
    /// Whether trust or the deny-list is another now, or a controller was removed.
    pub trust: bool,
}

/// Why the store's content cannot be used.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum LoadError {
    /// Something in it cannot be understood.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The mesh's own record is missing.
    #[error("the store has no mesh: make one with `cframe-controller init`")]
    NoMesh,
    /// A part refers to something that is not there.
    #[error("the store is corrupt: {0} belongs to namespace {1}, which is missing")]
    NoNamespace(String, Label),
}

impl State {
    /// Builds the state from everything in the store.
    ///
    /// # Errors
    /// If a part cannot be understood or is missing: nothing is served of a damaged whole.
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
        // Namespaces first: what belongs to one looks it up.
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

    fn empty(mesh: Stored<record::Mesh>, revision: Revision) -> Self {
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

    /// Takes one revision in. On an error nothing has changed.
    ///
    /// # Errors
    /// If a part cannot be understood, or the mesh's own record is removed: somebody empties the store, which
    /// is no reason to take everything from the edges.
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
        // What is removed makes room for what is put, and contents go before their namespace.
        removed.sort_by_key(|key| matches!(key, Key::Namespace(_)));
        for key in removed {
            self.remove(&key, &mut touched);
        }
        for record in put {
            self.put(record, batch.revision, &mut touched)?;
        }
        Ok(self.finish(touched))
    }

    /// Takes in a whole new state, after revisions were missed.
    pub fn replace(&mut self, mut new: Self) -> Effects {
        let mut effects = Effects { trust: true, ..Effects::default() };
        for (name, old) in &mut self.namespaces {
            let Some(version) = new.version(name) else {
                effects.gone.insert(name.clone());
                effects
                    .gone_edges
                    .extend(old.edges.keys().map(|edge| (name.clone(), edge.clone())));
                continue;
            };
            let Some(desired) = new.desired(name) else { continue };
            let Some(namespace) = new.namespaces.get_mut(name) else { continue };
            for edge in old.edges.keys().filter(|edge| !namespace.edges.contains_key(*edge)) {
                effects.gone_edges.insert((name.clone(), edge.clone()));
            }
            // At the same version there is nothing to tell that an edge would ask for.
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

    /// The newest version of a namespace's desired state.
    pub fn version(&self, namespace: &Label) -> Option<Version> {
        self.namespaces.get(namespace).map(|space| Version {
            epoch: self.mesh.record.epoch,
            mesh: self.mesh.record.revision,
            namespace: space.record.revision,
        })
    }

    /// The whole state that an edge of the namespace needs.
    pub fn desired(&self, namespace: &Label) -> Option<Desired> {
        let space = self.namespaces.get(namespace)?;
        Some(space.desired(namespace, &self.mesh.record, &self.denied))
    }

    /// Everything that is denied, for the controller's own handshakes.
    pub fn deny_list(&self) -> DenyList {
        self.denied.values().map(|denied| denied.record.entry.clone()).collect()
    }

    /// The certificates of a holder that are neither denied nor expired at `now`.
    pub fn valid_certs<'a>(
        &'a self,
        id: &SpiffeId,
        now: u64,
    ) -> impl Iterator<Item = (Serial, &'a record::Cert)> + 'a {
        let serials = self.certs_of.get(id).into_iter().flatten();
        serials.filter_map(move |serial| {
            let cert = &self.certs.get(serial)?.record;
            (cert.not_after > now && !self.denied.contains_key(serial)).then_some((*serial, cert))
        })
    }

    /// Whether the mesh has a controller of this name. A store from before there were registrations does not
    /// say.
    pub fn is_controller(&self, name: &Label) -> bool {
        self.controllers.is_empty() || self.controllers.contains_key(name)
    }

    /// The identity of a controller of this mesh.
    pub fn controller_id(&self, name: &Label) -> SpiffeId {
        SpiffeId::controller(self.mesh.record.name.clone(), name.clone())
    }

    /// The identity of an edge of this mesh.
    pub fn edge_id(&self, namespace: &Label, edge: &Label) -> SpiffeId {
        SpiffeId::edge(self.mesh.record.name.clone(), namespace.clone(), edge.clone())
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

    fn put(
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

    fn put_mesh(&mut self, record: record::Mesh, modified: Revision, touched: &mut Touched) {
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
        record: record::Namespace,
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
            // Refused before.
            Key::Mesh => {}
            Key::Namespace(name) => {
                if let Some(namespace) = self.namespaces.remove(name) {
                    let edges = namespace.edges.into_keys();
                    touched.gone_edges.extend(edges.map(|edge| (name.clone(), edge)));
                    touched.gone.insert(name.clone());
                }
            }
            Key::Edge(space, name) => {
                if let Some(namespace) = self.namespaces.get_mut(space)
                    && namespace.remove_edge(name, touched.of(space))
                {
                    touched.gone_edges.insert((space.clone(), name.clone()));
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
            gone: touched.gone,
            gone_edges: touched.gone_edges,
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

/// What one revision touched, before it is known who is to be told.
#[derive(Default)]
struct Touched {
    namespaces: BTreeMap<Label, Vec<Change>>,
    /// For every namespace.
    all: Vec<Change>,
    /// The mesh's revision is another.
    every: bool,
    new: BTreeSet<Label>,
    gone: BTreeSet<Label>,
    gone_edges: BTreeSet<(Label, Label)>,
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
            // Edges accept no admin anyhow.
            Role::Admin { .. } => {}
        }
    }
}

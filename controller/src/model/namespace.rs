//! One namespace: its edges and routes, and what their changes mean for the edges.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{
    Serial,
    bundle::DenyEntry,
    identity::{Label, Role},
};
use cframe_protocol::v1::{Change, Desired, EdgeState, Version};
use cframe_store::Revision;
use ipnet::IpNet;

use crate::model::{
    Prefixes, Source, Stored,
    log::Log,
    membership::Membership,
    record::{DeniedRecord, EdgeRecord, MeshRecord, NamespaceRecord, RouteRecord},
};

#[derive(Debug, Clone)]
pub struct Namespace {
    pub record: NamespaceRecord,
    /// The revision of the record's last write.
    pub modified: Revision,
    pub edges: BTreeMap<Label, Stored<EdgeRecord>>,
    pub routes: BTreeMap<Label, Stored<RouteRecord>>,
    /// Of edges and routes.
    pub prefixes: Prefixes,
    /// The last changes: an edge that is a little behind gets only these.
    pub log: Log,
}

impl Namespace {
    pub(super) fn new(record: NamespaceRecord, modified: Revision) -> Self {
        Self {
            record,
            modified,
            edges: BTreeMap::new(),
            routes: BTreeMap::new(),
            prefixes: Prefixes::default(),
            log: Log::new(Version::default()),
        }
    }

    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        let settings = cframe_protocol::v1::Settings::default();
        Self::new(NamespaceRecord { description: String::new(), settings, revision: 1 }, 1)
    }

    pub(super) fn desired(
        &self,
        name: &Label,
        mesh: &MeshRecord,
        denied: &BTreeMap<Serial, Stored<DeniedRecord>>,
    ) -> Desired {
        let entries = denied.values().map(|denied| &denied.record.entry);
        Desired {
            version: Version {
                epoch: mesh.epoch,
                mesh: mesh.revision,
                namespace: self.record.revision,
            },
            settings: self.record.settings,
            trust: mesh.trust.clone(),
            denied: entries.filter(|entry| concerns(entry, name)).cloned().collect(),
            controllers: mesh.controllers.clone(),
            edges: self
                .edges
                .iter()
                .map(|(name, edge)| (name.clone(), edge_state(&edge.record)))
                .collect(),
            prefixes: self.prefixes.owners(),
        }
    }

    pub fn routes_of<'a>(
        &'a self,
        edge: &'a Label,
    ) -> impl Iterator<Item = (&'a Label, &'a RouteRecord)> {
        self.routes
            .iter()
            .filter(move |(_, route)| route.record.edge == *edge)
            .map(|(name, route)| (name, &route.record))
    }

    pub(super) fn put_edge(
        &mut self,
        name: &Label,
        edge: Stored<EdgeRecord>,
        changes: &mut Vec<Change>,
    ) {
        let old = self.edges.get(name).map(|old| old.record.clone());
        let state = edge_state(&edge.record);
        if old.as_ref().map(edge_state).as_ref() != Some(&state) {
            changes.push(Change::Edge { name: name.clone(), state });
        }
        let source = Source { edge: name.clone(), route: None };
        let before: BTreeSet<IpNet> = old.into_iter().flat_map(|old| old.cidrs).collect();
        let after: BTreeSet<IpNet> = edge.record.cidrs.iter().copied().collect();
        for net in before.difference(&after) {
            self.take_prefix(*net, &source, changes);
        }
        for net in after.difference(&before) {
            self.give_prefix(*net, source.clone(), changes);
        }
        self.edges.insert(name.clone(), edge);
    }

    pub(super) fn remove_edge(&mut self, name: &Label, changes: &mut Vec<Change>) -> bool {
        let Some(old) = self.edges.remove(name) else { return false };
        let source = Source { edge: name.clone(), route: None };
        for net in old.record.cidrs {
            self.take_prefix(net, &source, changes);
        }
        changes.push(Change::EdgeGone { name: name.clone() });
        true
    }

    pub(super) fn put_route(
        &mut self,
        name: &Label,
        route: Stored<RouteRecord>,
        changes: &mut Vec<Change>,
    ) {
        self.remove_route(name, changes);
        let source = Source { edge: route.record.edge.clone(), route: Some(name.clone()) };
        self.give_prefix(route.record.prefix, source, changes);
        self.routes.insert(name.clone(), route);
    }

    pub(super) fn remove_route(&mut self, name: &Label, changes: &mut Vec<Change>) {
        if let Some(old) = self.routes.remove(name) {
            let source = Source { edge: old.record.edge, route: Some(name.clone()) };
            self.take_prefix(old.record.prefix, &source, changes);
        }
    }

    fn give_prefix(&mut self, net: IpNet, source: Source, changes: &mut Vec<Change>) {
        changes.push(Change::Prefix { net, owner: source.edge.clone() });
        self.prefixes.insert(net, source);
    }

    fn take_prefix(&mut self, net: IpNet, source: &Source, changes: &mut Vec<Change>) {
        if self.prefixes.remove(net, source) {
            changes.push(Change::PrefixGone { net });
        }
    }
}

/// Whether edges of a namespace can meet the holder of a denied certificate.
fn concerns(entry: &DenyEntry, namespace: &Label) -> bool {
    match &entry.id.role {
        Role::Edge { namespace: theirs, .. } => theirs == namespace,
        Role::Controller { .. } => true,
        Role::Admin { .. } => false,
    }
}

fn edge_state(edge: &EdgeRecord) -> EdgeState {
    // Without a membership, as by earlier versions, until it is stored.
    let joined = edge.membership.is_none_or(|stored| stored == Membership::Joined);
    EdgeState { endpoints: edge.endpoints.clone(), joined }
}

//! Deltas of desired state, updates that fit frames, and assembling them at the other end.

mod assemble;
mod pieces;

use std::collections::BTreeMap;

use crate::v1::{Change, Desired};

pub use assemble::{
    Assembled, Assembler, Delta, MAX_DENIED, MAX_EDGES, MAX_ENDPOINTS, MAX_PREFIXES, Refused,
};
pub use pieces::{Updates, updates};

impl Desired {
    /// The changes from this state to `to`, without the version. Empty if nothing differs.
    ///
    /// Removals come before additions, so that no two sites overlap in between.
    pub fn diff(&self, to: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.settings != to.settings {
            changes.push(Change::Settings(to.settings));
        }
        if self.trust != to.trust {
            changes.push(Change::Trust(to.trust.clone()));
        }
        if self.controllers != to.controllers {
            changes.push(Change::Controllers(to.controllers.clone()));
        }
        changes.extend(to.denied.difference(&self.denied).cloned().map(Change::Denied));
        changes.extend(self.denied.difference(&to.denied).cloned().map(Change::NotDenied));
        let nets = removed(&self.prefixes, &to.prefixes);
        changes.extend(nets.map(|net| Change::PrefixGone { net: *net }));
        let names = removed(&self.edges, &to.edges).cloned();
        changes.extend(names.map(|name| Change::EdgeGone { name }));
        changes.extend(
            added(&self.edges, &to.edges)
                .map(|(name, state)| Change::Edge { name: name.clone(), state: state.clone() }),
        );
        changes.extend(
            added(&self.prefixes, &to.prefixes)
                .map(|(net, owner)| Change::Prefix { net: *net, owner: owner.clone() }),
        );
        changes
    }

    /// The same list as `self.diff(to)`, at the cost of `delta` and not of the whole state. `delta` must
    /// name everything that differs; what it names and doesn't differ is left out.
    pub fn diff_within(&self, to: &Self, delta: &[Change]) -> Vec<Change> {
        let (mut before, mut after) = (Self::default(), Self::default());
        // Settings, trust and controllers are small, and always compared.
        for (part, whole) in [(&mut before, self), (&mut after, to)] {
            part.settings = whole.settings;
            part.trust = whole.trust.clone();
            part.controllers = whole.controllers.clone();
        }
        for change in delta {
            for (part, whole) in [(&mut before, self), (&mut after, to)] {
                part.copy_named(whole, change);
            }
        }
        before.diff(&after)
    }

    /// Copies from `whole` the one entry that `change` names, if `whole` has it.
    fn copy_named(&mut self, whole: &Self, change: &Change) {
        match change {
            Change::Settings(_) | Change::Trust(_) | Change::Controllers(_) => {}
            Change::Denied(entry) | Change::NotDenied(entry) => {
                self.denied.extend(whole.denied.get(entry).cloned());
            }
            Change::Edge { name, .. } | Change::EdgeGone { name } => {
                self.edges
                    .extend(whole.edges.get_key_value(name).map(|(n, s)| (n.clone(), s.clone())));
            }
            Change::Prefix { net, .. } | Change::PrefixGone { net } => {
                self.prefixes.extend(whole.prefixes.get(net).map(|owner| (*net, owner.clone())));
            }
        }
    }

    /// Applies one change, whatever the previous value.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Settings(settings) => self.settings = settings,
            Change::Trust(trust) => self.trust = trust,
            Change::Controllers(controllers) => self.controllers = controllers,
            Change::Denied(entry) => {
                self.denied.insert(entry);
            }
            Change::NotDenied(entry) => {
                self.denied.remove(&entry);
            }
            Change::Edge { name, state } => {
                self.edges.insert(name, state);
            }
            Change::EdgeGone { name } => {
                self.edges.remove(&name);
            }
            Change::Prefix { net, owner } => {
                self.prefixes.insert(net, owner);
            }
            Change::PrefixGone { net } => {
                self.prefixes.remove(&net);
            }
        }
    }
}

/// The keys that are missing in `to`.
fn removed<'a, K: Ord, V>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    from.keys().filter(|key| !to.contains_key(key))
}

/// The entries that are missing in `from`, or differ there.
fn added<'a, K: Ord, V: PartialEq>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    to.iter().filter(|(key, value)| from.get(key) != Some(value))
}

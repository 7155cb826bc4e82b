//! The last changes of a namespace, for edges that have an earlier version.

use std::collections::{HashMap, VecDeque};

use cframe_pki::{Serial, identity::Label};
use cframe_protocol::v1::{Change, Version};
use ipnet::IpNet;

/// Changes in memory. An edge that lacks more gets a snapshot, which is not larger.
const MAX_CHANGES: usize = 16_384;

/// The last versions without a gap, and the changes between them.
#[derive(Debug, Clone)]
pub struct Log {
    /// The version before the first change.
    floor: Version,
    steps: VecDeque<(Version, Vec<Change>)>,
    changes: usize,
}

impl Log {
    pub fn new(version: Version) -> Self {
        Self { floor: version, steps: VecDeque::new(), changes: 0 }
    }

    pub fn newest(&self) -> Version {
        self.steps.back().map_or(self.floor, |(version, _)| *version)
    }

    /// Adds the step to `version`; false if that is the newest already.
    pub fn push(&mut self, version: Version, changes: Vec<Change>) -> bool {
        if version == self.newest() {
            debug_assert!(changes.is_empty(), "a change of desired state without a new version");
            return false;
        }
        if version.epoch != self.floor.epoch {
            *self = Self::new(version);
            return true;
        }
        self.changes += changes.len();
        self.steps.push_back((version, changes));
        while self.changes > MAX_CHANGES || self.steps.len() > MAX_CHANGES {
            let Some((version, changes)) = self.steps.pop_front() else { break };
            self.floor = version;
            self.changes -= changes.len();
        }
        true
    }

    /// Whether the log has the changes since `version`.
    pub fn has(&self, version: Version) -> bool {
        self.start(version).is_some()
    }

    /// The number of changes from `version` to the newest; `None` if the log does not have them, or one of them is about
    /// trust: an edge that starts now must not first trust somebody who was revoked.
    pub fn changes_since(&self, version: Version) -> Option<usize> {
        let start = self.start(version)?;
        let changes = || self.steps.iter().skip(start).flat_map(|(_, changes)| changes);
        let trust = |change: &Change| {
            matches!(change, Change::Trust(_) | Change::Denied(_) | Change::NotDenied(_))
        };
        (!changes().any(trust)).then(|| changes().count())
    }

    /// The first step after `version`.
    fn start(&self, version: Version) -> Option<usize> {
        if version == self.floor {
            return Some(0);
        }
        // Sorted: all are of one epoch, and neither revision ever decreases.
        let order = |version: &Version| (version.mesh, version.namespace);
        let start = self.steps.partition_point(|(at, _)| order(at) <= order(&version));
        let (at, _) = self.steps.get(start.checked_sub(1)?)?;
        (*at == version).then_some(start)
    }

    /// The changes from `version` to the newest, the last one for each subject; `None` if the log does not have them.
    pub fn since(&self, version: Version) -> Option<Vec<Change>> {
        let start = self.start(version)?;
        let mut latest = HashMap::new();
        let changes = || self.steps.iter().skip(start).flat_map(|(_, changes)| changes);
        for (index, change) in changes().enumerate() {
            latest.insert(Subject::of(change), index);
        }
        let mut changes: Vec<Change> = changes()
            .enumerate()
            .filter(|(index, change)| latest.get(&Subject::of(change)) == Some(index))
            .map(|(_, change)| change.clone())
            .collect();
        // Removals first, so that no two sites overlap in between.
        changes.sort_by_key(|change| {
            !matches!(change, Change::PrefixGone { .. } | Change::EdgeGone { .. })
        });
        Some(changes)
    }
}

/// What a change sets or removes. Of two changes with the same subject, the later one is enough.
#[derive(PartialEq, Eq, Hash)]
enum Subject<'a> {
    Settings,
    Trust,
    Controllers,
    /// Serials are random and unique.
    Denial(Serial),
    Edge(&'a Label),
    Prefix(IpNet),
}

impl<'a> Subject<'a> {
    fn of(change: &'a Change) -> Self {
        match change {
            Change::Settings(_) => Self::Settings,
            Change::Trust(_) => Self::Trust,
            Change::Controllers(_) => Self::Controllers,
            Change::Denied(entry) | Change::NotDenied(entry) => Self::Denial(entry.serial),
            Change::Edge { name, .. } | Change::EdgeGone { name } => Self::Edge(name),
            Change::Prefix { net, .. } | Change::PrefixGone { net } => Self::Prefix(*net),
        }
    }
}

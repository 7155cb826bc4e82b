//! The last changes of a namespace: what an edge at an earlier version lacks.

use std::collections::{HashMap, VecDeque};

use cframe_pki::{Serial, identity::Label};
use cframe_protocol::v1::{Change, Version};
use ipnet::IpNet;

/// Changes kept at most. An edge that is further behind gets a snapshot, which is no larger by then.
const KEPT: usize = 16_384;

/// A bounded run of versions without a gap, with the changes between them.
#[derive(Debug, Clone)]
pub struct Log {
    /// The oldest version that the changes lead on from.
    floor: Version,
    steps: VecDeque<(Version, Vec<Change>)>,
    changes: usize,
}

impl Log {
    /// An empty log at a version.
    pub fn new(version: Version) -> Self {
        Self { floor: version, steps: VecDeque::new(), changes: 0 }
    }

    /// The newest version.
    pub fn newest(&self) -> Version {
        self.steps.back().map_or(self.floor, |(version, _)| *version)
    }

    /// Takes in the step to `version`; false if that is the newest already.
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
        while self.changes > KEPT || self.steps.len() > KEPT {
            let Some((version, changes)) = self.steps.pop_front() else { break };
            self.floor = version;
            self.changes -= changes.len();
        }
        true
    }

    /// Whether the changes since `version` are kept.
    pub fn has(&self, version: Version) -> bool {
        self.start(version).is_some()
    }

    /// How many changes led from `version` to the newest; `None` if they are not kept, or one of them is about whom to
    /// trust: who has none of it yet is not to begin with whom it has been taken from.
    pub fn behind(&self, version: Version) -> Option<usize> {
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
        // Of one epoch, and neither revision ever goes back: the steps are in this order.
        let order = |version: &Version| (version.mesh, version.namespace);
        let start = self.steps.partition_point(|(at, _)| order(at) <= order(&version));
        let (at, _) = self.steps.get(start.checked_sub(1)?)?;
        (*at == version).then_some(start)
    }

    /// The changes from `version` to the newest, each thing once; `None` if they are not kept.
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
        // What goes comes before what arrives: no two sites overlap on the way.
        changes.sort_by_key(|change| {
            !matches!(change, Change::PrefixGone { .. } | Change::EdgeGone { .. })
        });
        Some(changes)
    }
}

/// What a change sets or removes: of two about the same thing the later one is enough.
#[derive(PartialEq, Eq, Hash)]
enum Subject<'a> {
    Settings,
    Trust,
    Controllers,
    /// A serial is random and unique.
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

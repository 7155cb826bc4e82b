//! The desired state as it is applied, and what of it is on disk for the next start.

mod effects;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cframe_pki::{
    bundle::DenyList,
    identity::{Label, SpiffeId},
    unix_now,
};
use cframe_protocol::{
    desired::Delta,
    v1::{Change, Desired, EdgeState, Version},
};
use tokio::task::JoinSet;
use tracing::warn;

use super::latest_writer::LatestWriter;
use crate::{
    snapshot::{self, Snapshot},
    state::{self, Enrolment},
    status::StateStatus,
};
pub(super) use effects::{Effects, congestion};

#[derive(Debug)]
pub(super) struct DesiredState {
    own: Label,
    /// The empty state before the first one.
    pub(super) applied: Arc<Desired>,
    /// Unexpired denials of earlier epochs of the controllers' store: a restored store may have lost
    /// some.
    retained: DenyList,
    /// When a controller last confirmed the state, in Unix seconds.
    confirmed: Option<u64>,
    saver: LatestWriter<(Arc<Desired>, DenyList)>,
    pub(super) enrolment: Enrolment,
    dir: PathBuf,
}

/// What a new state changes.
#[derive(Debug)]
pub(super) struct Difference {
    /// There was no state before.
    pub(super) first: bool,
    /// The retained denials have changed.
    pub(super) denials: bool,
    pub(super) changes: Vec<Change>,
}

impl DesiredState {
    /// No state is applied yet. The snapshot has the retained denials and the time of the last
    /// confirmation.
    pub(super) fn new(
        own: Label,
        id: SpiffeId,
        dir: PathBuf,
        enrolment: Enrolment,
        snapshot: Option<&Snapshot>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let path = dir.join(snapshot::FILE);
        let saver = LatestWriter::start(tasks, move |(desired, denied)| {
            save_snapshot(&path, &Snapshot { id: id.clone(), saved: unix_now(), desired, denied })
        });
        Self {
            own,
            applied: Arc::default(),
            retained: snapshot.map(|snapshot| snapshot.denied.clone()).unwrap_or_default(),
            confirmed: snapshot.map(|snapshot| snapshot.saved),
            saver,
            enrolment,
            dir,
        }
    }

    /// Makes `new` the applied state and returns what changes by it: from a delta its own changes, and
    /// from a snapshot the difference to the state before.
    pub(super) fn replace(
        &mut self,
        new: Arc<Desired>,
        delta: Option<&Delta>,
        now: u64,
    ) -> Difference {
        let old = &self.applied;
        let changes = match delta {
            Some(delta) if delta.from == old.version => old.diff_within(&new, &delta.changes),
            Some(_) | None => old.diff(&new),
        };
        let first = self.version().is_none();
        let denials = retain_denials(&mut self.retained, old, &new, now);
        self.applied = new;
        Difference { first, denials, changes }
    }

    /// The applied version; `None` before the first.
    pub(super) fn version(&self) -> Option<Version> {
        let version = self.applied.version;
        (version != Version::default()).then_some(version)
    }

    /// All edges but this one.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&Label, &EdgeState)> {
        self.applied.edges.iter().filter(|(name, _)| **name != self.own)
    }

    /// MTU of the TUN device in bytes.
    pub(super) fn mtu(&self) -> u16 {
        self.applied.settings.tun_mtu
    }

    /// All denials, those of earlier epochs included.
    pub(super) fn denied(&self) -> DenyList {
        self.applied.denied.iter().cloned().chain(self.retained.iter()).collect()
    }

    /// A controller has confirmed the applied state just now.
    pub(super) fn record_confirmed(&mut self) {
        self.confirmed = Some(unix_now());
    }

    /// Has the applied state written to disk.
    pub(super) fn save(&self) {
        self.saver.save((Arc::clone(&self.applied), self.retained.clone()));
    }

    /// Saves trust and controllers where a start without a snapshot reads them.
    pub(super) fn save_enrolment(&mut self) {
        let mut newer = self.enrolment.clone();
        if !self.applied.trust.roots.is_empty() {
            newer.trust = self.applied.trust.clone();
        }
        if !self.applied.controllers.is_empty() {
            newer.controllers = self.applied.controllers.iter().cloned().collect();
        }
        if newer != self.enrolment {
            match state::save_enrolment(&self.dir, &newer) {
                Ok(()) => self.enrolment = newer,
                Err(error) => warn!("trust and controllers were not saved: {error:#}"),
            }
        }
    }

    /// All but `cut_off`, which is known to [`Identity`](super::Identity).
    pub(super) fn status(&self, connected: bool) -> StateStatus {
        let prefixes = &self.applied.prefixes;
        let own = prefixes.iter().filter(|(_, owner)| **owner == self.own);
        let own: Vec<String> = own.map(|(net, _)| net.to_string()).collect();
        StateStatus {
            version: self.version().map(|version| version.to_string()),
            age_secs: self.confirmed.map(|at| match connected {
                true => 0,
                false => unix_now().saturating_sub(at),
            }),
            foreign: prefixes.len() - own.len(),
            own,
            ..StateStatus::default()
        }
    }

    /// When a controller last confirmed the state, in Unix seconds.
    pub(super) fn confirmed(&self) -> Option<u64> {
        self.confirmed
    }

    /// Why the state is not on disk, if it could not be written.
    pub(super) fn save_error(&self) -> Option<String> {
        self.saver.error()
    }

    pub(super) async fn finish_saving(self) {
        self.saver.finish().await;
    }
}

fn save_snapshot(path: &Path, snapshot: &Snapshot) -> Result<(), String> {
    snapshot::save(path, snapshot).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}

/// At a new epoch of the store, adds the denials of the epoch before. Drops those that have expired.
/// Returns whether the list has changed.
fn retain_denials(retained: &mut DenyList, old: &Desired, new: &Desired, now: u64) -> bool {
    let count = retained.len();
    if old.version != Version::default() && old.version.epoch != new.version.epoch {
        retained.extend(old.denied.iter().cloned());
    }
    retained.prune(now);
    retained.len() != count
}

#[cfg(test)]
mod tests {
    use cframe_pki::{Fingerprint, Serial, bundle::DenyEntry};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn state(epoch: u64, denied: &[(u8, u64)]) -> Desired {
        let entry = |(number, expires): &(u8, u64)| DenyEntry {
            id: "spiffe://mesh.example/ns/prod/edge/stolen".parse().unwrap(),
            serial: Serial::from_bytes([*number; 16]),
            spki: Fingerprint::from_bytes([*number; 32]),
            expires: *expires,
        };
        Desired {
            version: Version { epoch, mesh: 1, namespace: 1 },
            denied: denied.iter().map(entry).collect(),
            ..Desired::default()
        }
    }

    #[test]
    fn denials_that_a_restored_store_has_lost_are_retained_until_they_expire() {
        let mut retained = DenyList::default();
        let old = state(1, &[(1, NOW + 86_400), (2, NOW - 86_400)]);
        assert!(!retain_denials(&mut retained, &old, &state(1, &[]), NOW), "no new epoch");
        assert!(retain_denials(&mut retained, &old, &state(2, &[]), NOW));
        assert!(retained.denies_key(Fingerprint::from_bytes([1; 32])));
        assert!(!retained.denies_key(Fingerprint::from_bytes([2; 32])), "it had expired");
        assert!(!retain_denials(&mut retained, &state(2, &[]), &state(2, &[]), NOW));
        assert!(
            retained.denies_key(Fingerprint::from_bytes([1; 32])),
            "later states don't lift it"
        );
        assert!(retain_denials(&mut retained, &state(2, &[]), &state(2, &[]), NOW + 10 * 86_400));
        assert!(retained.is_empty());
    }

    fn empty(dir: &Path, tasks: &mut JoinSet<()>) -> DesiredState {
        let enrolment = Enrolment {
            trust: cframe_pki::bundle::TrustBundle::default(),
            controllers: Vec::new(),
            listen_port: 0,
            settings: cframe_protocol::v1::Settings::default(),
        };
        let (id, own) = ("spiffe://mesh.example/ns/prod/edge/idc", "idc".parse().unwrap());
        let dir = dir.to_owned();
        DesiredState::new(own, id.parse().unwrap(), dir, enrolment, None, tasks)
    }

    #[tokio::test]
    async fn a_start_finds_the_state_that_was_saved_last_and_the_retained_denials() {
        let (dir, mut tasks) = (tempfile::tempdir().unwrap(), JoinSet::new());
        let mut desired = empty(dir.path(), &mut tasks);
        let expires = unix_now() + 86_400;
        desired.replace(Arc::new(state(1, &[(1, expires)])), None, unix_now());
        desired.save();
        desired.replace(Arc::new(state(2, &[(2, expires)])), None, unix_now());
        desired.save();
        desired.finish_saving().await;
        let saved = snapshot::load(&dir.path().join(snapshot::FILE)).unwrap().unwrap();
        assert_eq!(*saved.desired, state(2, &[(2, expires)]));
        assert!(saved.denied.denies_key(Fingerprint::from_bytes([1; 32])));
        assert!(!saved.denied.denies_key(Fingerprint::from_bytes([2; 32])), "it is in the state");
    }

    #[tokio::test]
    async fn a_delta_changes_what_it_says_and_one_for_another_state_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let mut desired = empty(dir.path(), &mut JoinSet::new());
        let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
        let mut first = state(1, &[]);
        first.prefixes.insert(net("10.1.0.0/16"), "idc".parse().unwrap());
        let replaced = desired.replace(Arc::new(first.clone()), None, NOW);
        assert!(replaced.first && replaced.changes.len() == 1);

        // The prefix moves to another edge; in between it was gone.
        let mut second = first.clone();
        second.version.namespace = 2;
        let moved = Change::Prefix { net: net("10.1.0.0/16"), owner: "aws-hk".parse().unwrap() };
        second.apply(moved.clone());
        let changes = vec![Change::PrefixGone { net: net("10.1.0.0/16") }, moved.clone()];
        let delta = Delta { from: first.version, changes };
        let replaced = desired.replace(Arc::new(second.clone()), Some(&delta), NOW);
        assert!(!replaced.first && !replaced.denials);
        assert_eq!(replaced.changes, [moved]);

        // A delta from a state that is not the applied one is not relied on.
        let third =
            Desired { version: Version { epoch: 1, mesh: 1, namespace: 4 }, ..first.clone() };
        let from = Version { epoch: 1, mesh: 1, namespace: 3 };
        let delta = Delta { from, changes: Vec::new() };
        let replaced = desired.replace(Arc::new(third), Some(&delta), NOW);
        let back = Change::Prefix { net: net("10.1.0.0/16"), owner: "idc".parse().unwrap() };
        assert_eq!(replaced.changes, [back]);
    }
}

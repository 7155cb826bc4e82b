//! Desired state on its way to the core, the kernel and the disk.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use cframe_mesh::Congestion;
use cframe_pki::{
    bundle::{DenyList, TrustBundle},
    unix_now,
};
use cframe_protocol::{
    session::Command,
    v1::{self, Change, Desired, Endpoint, Version},
};
use tracing::{debug, error, info, warn};

use super::Site;
use crate::{
    host::{driver::MeshChange, routes::Edit},
    state::{self, Cut},
};

/// What a difference comes to.
#[derive(Debug, Default)]
struct Work {
    mesh: Vec<MeshChange>,
    routes: Vec<Edit>,
    trust: bool,
    controllers: bool,
    mtu: Option<u16>,
}

impl Site {
    /// Applies a state of a controller, acknowledges it, and has it saved.
    pub(super) async fn take(&mut self, new: Arc<Desired>) {
        let version = new.version;
        let trusted = self.desired.trust.clone();
        self.adopt(Arc::clone(&new)).await;
        self.confirmed = Some(unix_now());
        self.back_in().await;
        self.tell(Command::Ack(version)).await;
        if self.desired.trust != trusted {
            // After the acknowledgement, so that the controller that is left for this knows why.
            self.tell(Command::Recheck(self.trust.clone())).await;
        }
        self.saver.save(new, self.kept.clone());
        debug!(%version, "state applied");
    }

    /// Applies a state: first who is trusted, then the core, then the kernel, so that packets for a
    /// new prefix find their link, and nothing is sent to whom we no longer trust.
    pub(super) async fn adopt(&mut self, new: Arc<Desired>) {
        let first = self.applied().is_none();
        let changes = self.desired.diff(&new);
        let mut work = self.work(changes);
        work.trust |= keep_denials(&mut self.kept, &self.desired, &new, unix_now());
        self.desired = new;
        if work.trust {
            self.apply_trust();
        }
        if work.controllers {
            self.apply_controllers().await;
        }
        if work.trust || work.controllers {
            self.keep_enrolment();
        }
        if !work.mesh.is_empty() {
            self.driver.apply(work.mesh).await;
        }
        if let Some(mtu) = work.mtu {
            self.routes.set_device(self.device.index, mtu).await;
        }
        if first || !work.routes.is_empty() {
            self.routes.edit(work.routes).await;
        }
        self.resolve_all();
        self.note_remotes(BTreeSet::new()).await;
    }

    fn work(&self, changes: Vec<Change>) -> Work {
        let mut work = Work::default();
        for change in changes {
            match change {
                Change::Settings(settings) => {
                    work.mesh.push(MeshChange::TunMtu(settings.tun_mtu));
                    work.mesh.push(MeshChange::Congestion(congestion(settings.congestion)));
                    work.mtu = Some(settings.tun_mtu);
                }
                Change::Trust(_) | Change::Denied(_) | Change::NotDenied(_) => work.trust = true,
                Change::Controllers(_) => work.controllers = true,
                Change::Edge { name, .. } | Change::EdgeGone { name } if name == self.name => {}
                Change::Edge { name, state } => {
                    let addresses =
                        self.last_seen.or_endpoints(&self.resolver, &name, &state.endpoints);
                    work.mesh.push(MeshChange::Peer { name, addresses });
                }
                Change::EdgeGone { name } => work.mesh.push(MeshChange::PeerGone(name)),
                Change::Prefix { net, owner } => {
                    let own = owner == self.name;
                    work.routes.push(if own { Edit::Own(net) } else { Edit::Foreign(net) });
                    work.mesh.push(MeshChange::Prefix { net, owner });
                }
                Change::PrefixGone { net } => {
                    work.routes.push(Edit::Gone(net));
                    work.mesh.push(MeshChange::PrefixGone(net));
                }
            }
        }
        work
    }

    fn apply_trust(&self) {
        self.replace_trust(self.desired.trust.clone());
    }

    /// Has this bundle count from now on, but for what is denied.
    pub(super) fn replace_trust(&self, bundle: TrustBundle) {
        let denied = self.desired.denied.iter().cloned().chain(self.kept.iter());
        match self.trust.replace(bundle, denied.collect::<DenyList>()) {
            Ok(()) => self.driver.recheck(),
            Err(error) => error!(%error, "the new trust bundle cannot be used; the former stays"),
        }
    }

    /// What a start without a snapshot begins with.
    fn keep_enrolment(&mut self) {
        let mut newer = self.enrolment.clone();
        if !self.desired.trust.roots.is_empty() {
            newer.trust = self.desired.trust.clone();
        }
        if !self.desired.controllers.is_empty() {
            newer.controllers = self.desired.controllers.iter().cloned().collect();
        }
        if newer != self.enrolment {
            match state::save_enrolment(&self.state.dir, &newer) {
                Ok(()) => self.enrolment = newer,
                Err(error) => warn!("trust and controllers were not saved: {error:#}"),
            }
        }
    }

    async fn apply_controllers(&mut self) {
        let mut addresses: BTreeSet<Endpoint> = self.config.controllers.iter().cloned().collect();
        addresses.extend(self.desired.controllers.iter().cloned());
        if !addresses.is_empty() {
            self.client.addresses = addresses.into_iter().collect();
            self.tell(Command::Client(self.client.clone())).await;
        }
    }

    /// Out of the mesh: no peers, and every prefix unreachable, so that nothing leaves in the clear.
    pub(super) async fn cut_off(&mut self, reason: &str) {
        if self.is_cut() {
            return;
        }
        error!(%reason, "cut off from the mesh: links are closed, prefixes unreachable; \
            to come back, join again with a new token");
        self.note_cut(reason, true);
        let peers = self.desired.edges.keys().filter(|name| **name != self.name);
        let gone = peers.map(|name| MeshChange::PeerGone(name.clone())).collect();
        self.driver.apply(gone).await;
        self.routes.set_cut(true).await;
    }

    /// Whether links and routes are down because a controller said so.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.in_force)
    }

    /// A controller doesn't know our certificate any more. Peers don't either, if that is so: nothing
    /// is taken down for it.
    pub(super) fn refused(&mut self, reason: &str) {
        if self.cut.is_none() {
            error!(%reason, "a controller refuses us; to come back, join again with a new token");
            self.note_cut(reason, false);
        }
    }

    fn note_cut(&mut self, reason: &str, in_force: bool) {
        let cut = Cut::new(reason, self.credentials.identity().serial, in_force);
        cut.save(&self.state.dir);
        self.cut = Some(cut);
    }

    /// A controller has us in its mesh.
    pub(super) async fn back_in(&mut self) {
        let Some(cut) = self.cut.take() else { return };
        info!("back in the mesh");
        Cut::forget(&self.state.dir);
        if cut.in_force {
            self.rejoin().await;
        }
    }

    async fn rejoin(&mut self) {
        let peers = self.desired.edges.iter().filter(|(name, _)| **name != self.name);
        let back = peers
            .map(|(name, state)| MeshChange::Peer {
                name: name.clone(),
                addresses: self.last_seen.or_endpoints(&self.resolver, name, &state.endpoints),
            })
            .collect();
        self.driver.apply(back).await;
        self.routes.set_cut(false).await;
    }

    /// Looks up all names of peers again.
    pub(super) fn resolve_all(&mut self) {
        let endpoints = self.desired.edges.values().flat_map(|state| &state.endpoints);
        let names: HashSet<&Endpoint> = endpoints.filter(|name| name.ip().is_none()).collect();
        self.resolver.forget_all_but(&names);
        names.into_iter().for_each(|name| self.resolver.look_up(name));
    }

    /// Looks up a peer's names again, because its link failed.
    pub(super) fn resolve_peer(&mut self, peer: &str) {
        let state = self.desired.edges.iter().find(|(name, _)| name.as_str() == peer);
        for endpoint in state.iter().flat_map(|(_, state)| &state.endpoints) {
            self.resolver.look_up(endpoint);
        }
    }

    /// A name has other addresses than before.
    pub(super) async fn readdress(&mut self, endpoint: &Endpoint) {
        if self.is_cut() {
            return;
        }
        let peers = self.desired.edges.iter();
        let changes: Vec<MeshChange> = peers
            .filter(|(name, state)| **name != self.name && state.endpoints.contains(endpoint))
            .map(|(name, state)| MeshChange::Peer {
                name: name.clone(),
                addresses: self.resolver.addresses(&state.endpoints),
            })
            .collect();
        debug!(%endpoint, peers = changes.len(), "resolved");
        self.driver.apply(changes).await;
        self.note_remotes(BTreeSet::new()).await;
    }

    /// Tells the keeper of routes which addresses make the underlay: those that may be dialled, and
    /// those that links have.
    pub(super) async fn note_remotes(&mut self, linked: BTreeSet<IpAddr>) {
        let states = self.desired.edges.iter().filter(|(name, _)| **name != self.name);
        let endpoints = states.flat_map(|(_, state)| self.resolver.addresses(&state.endpoints));
        let mut remotes: BTreeSet<IpAddr> = endpoints.map(|address| address.ip()).collect();
        remotes.extend(linked);
        remotes.extend(self.connection.controller.map(|address| address.ip().to_canonical()));
        if remotes != self.remotes {
            self.remotes.clone_from(&remotes);
            self.routes.set_remotes(remotes).await;
        }
    }

    pub(super) async fn tell(&self, command: Command) {
        if self.session.send(command).await.is_err() {
            // Its end shows in its events.
            warn!("the control session's task has stopped");
        }
    }
}

pub(super) fn congestion(wanted: v1::Congestion) -> Congestion {
    match wanted {
        v1::Congestion::Transparent => Congestion::Transparent,
        v1::Congestion::Bbr => Congestion::Bbr,
    }
}

/// At a new epoch of the store, keeps the unexpired denials of the one before; says whether what is
/// kept has changed.
fn keep_denials(kept: &mut DenyList, before: &Desired, new: &Desired, now: u64) -> bool {
    let count = kept.len();
    if before.version != Version::default() && before.version.epoch != new.version.epoch {
        kept.extend(before.denied.iter().cloned());
    }
    kept.prune(now);
    kept.len() != count
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
    fn denials_that_a_restored_store_has_lost_are_kept_until_they_expire() {
        let mut kept = DenyList::default();
        let before = state(1, &[(1, NOW + 86_400), (2, NOW - 86_400)]);
        assert!(!keep_denials(&mut kept, &before, &state(1, &[]), NOW), "no new epoch");
        assert!(keep_denials(&mut kept, &before, &state(2, &[]), NOW));
        assert!(kept.denies_key(Fingerprint::from_bytes([1; 32])));
        assert!(!kept.denies_key(Fingerprint::from_bytes([2; 32])), "it had expired");
        assert!(!keep_denials(&mut kept, &state(2, &[]), &state(2, &[]), NOW));
        assert!(kept.denies_key(Fingerprint::from_bytes([1; 32])), "later states don't lift it");
        assert!(keep_denials(&mut kept, &state(2, &[]), &state(2, &[]), NOW + 10 * 86_400));
        assert!(kept.is_empty());
    }
}

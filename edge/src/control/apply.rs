//! Desired state on its way to the core, the kernel and the disk.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use cframe_mesh::Congestion;
use cframe_pki::{bundle::DenyList, unix_now};
use cframe_protocol::{
    session::Command,
    v1::{self, Change, Desired, Endpoint},
};
use tracing::{debug, error, info, warn};

use super::Site;
use crate::{
    host::{driver::MeshChange, routes::Edit},
    state,
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
        self.adopt(Arc::clone(&new)).await;
        self.confirmed = Some(unix_now());
        if self.cut.take().is_some() {
            info!("back in the mesh");
            self.rejoin().await;
        }
        self.tell(Command::Ack(version)).await;
        self.saver.save(new);
        debug!(%version, "state applied");
    }

    /// Applies a state: first who is trusted, then the core, then the kernel, so that packets for a
    /// new prefix find their link, and nothing is sent to whom we no longer trust.
    pub(super) async fn adopt(&mut self, new: Arc<Desired>) {
        let first = self.applied().is_none();
        let changes = self.desired.diff(&new);
        let work = self.work(changes);
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
                    let addresses = self.resolver.addresses(&state.endpoints);
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
        let denied: DenyList = self.desired.denied.iter().cloned().collect();
        match self.trust.replace(self.desired.trust.clone(), denied) {
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
        if self.cut.is_some() {
            return;
        }
        error!(%reason, "cut off from the mesh: links are closed, prefixes unreachable; \
            to come back, join again with a new token and restart");
        self.cut = Some(reason.to_owned());
        let peers = self.desired.edges.keys().filter(|name| **name != self.name);
        let gone = peers.map(|name| MeshChange::PeerGone(name.clone())).collect();
        self.driver.apply(gone).await;
        self.routes.set_cut(true).await;
    }

    async fn rejoin(&mut self) {
        let peers = self.desired.edges.iter().filter(|(name, _)| **name != self.name);
        let back = peers
            .map(|(name, state)| MeshChange::Peer {
                name: name.clone(),
                addresses: self.resolver.addresses(&state.endpoints),
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
        if self.cut.is_some() {
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

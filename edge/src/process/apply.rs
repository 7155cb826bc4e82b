//! Applies a desired state from a controller: first trust, then the core, then the kernel.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use cframe_pki::{bundle::TrustBundle, unix_now};
use cframe_protocol::{
    desired::Delta,
    session::Command,
    v1::{Desired, Endpoint},
};
use tracing::debug;

use super::{EdgeProcess, desired::Effects};

impl EdgeProcess {
    /// Applies a state that a controller has sent, acknowledges it, and has it saved.
    pub(super) async fn receive_state(&mut self, state: Arc<Desired>, delta: Option<Delta>) {
        let version = state.version;
        let new_bundle = self.apply_state(state, delta.as_ref()).await;
        self.desired.record_confirmed();
        self.rejoin_mesh().await;
        self.uplink.send(Command::Ack(version)).await;
        if new_bundle {
            // After the acknowledgement: if this ends the session, the controller has received it.
            self.uplink.send(Command::Recheck(self.identity.trust.clone())).await;
        }
        self.desired.save();
        debug!(%version, "state applied");
    }

    /// Applies a state and returns whether its trust bundle is another than before.
    ///
    /// Trust comes first, so that nothing is sent to a peer that is no longer trusted; the core comes
    /// before the kernel, so that packets for a new prefix find their link.
    pub(super) async fn apply_state(&mut self, state: Arc<Desired>, delta: Option<&Delta>) -> bool {
        let difference = self.desired.replace(state, delta, unix_now());
        let addresses =
            |peer: &_, endpoints: &[Endpoint]| self.links.dial_addresses(peer, endpoints);
        let effects = Effects::of(difference.changes, &self.identity.name, addresses);

        let trust = effects.bundle || effects.denials || difference.denials;
        if trust {
            self.replace_trust(self.desired.applied.trust.clone());
        }
        if effects.controllers {
            let known: Vec<Endpoint> = self.desired.applied.controllers.iter().cloned().collect();
            self.uplink.set_controllers(&known).await;
        }
        if trust || effects.controllers {
            self.desired.save_enrolment();
        }
        if !effects.mesh.is_empty() {
            self.driver.apply(effects.mesh).await;
        }
        if let Some(mtu) = effects.mtu {
            self.routes.set_device(self.device.index, mtu).await;
        }
        // The first call, even without edits, lets the route keeper start: see `Routes::edit`.
        if difference.first || !effects.routes.is_empty() {
            let edits = effects.routes.clone();
            self.routes.edit(effects.routes).await;
            self.firewall.edit(edits);
        }
        self.links.resolve_all(&self.desired);
        self.update_underlay(BTreeSet::new()).await;
        effects.bundle
    }

    /// Trusts this bundle from now on, and closes links to peers that it does not cover.
    pub(super) fn replace_trust(&self, bundle: TrustBundle) {
        if self.identity.replace_trust(bundle, self.desired.denied()) {
            self.driver.recheck();
        }
    }

    /// A name has other addresses than before.
    pub(super) async fn update_addresses(&mut self, endpoint: &Endpoint) {
        if self.identity.is_cut_off() {
            return;
        }
        self.driver.apply(self.links.peers_at(endpoint, &self.desired)).await;
        self.update_underlay(BTreeSet::new()).await;
    }

    /// Gives the route keeper the addresses that make up the underlay. `linked`: those of links.
    pub(super) async fn update_underlay(&mut self, linked: BTreeSet<IpAddr>) {
        let controller = self.uplink.controller;
        if let Some(underlay) = self.links.update_underlay(&self.desired, linked, controller) {
            self.routes.set_remotes(underlay).await;
        }
    }
}

//! Out of the mesh and back in: revocation, removal, renewal, and joining again.

use cframe_protocol::v1::{CallError, Enrolled};
use tracing::{error, info};

use super::EdgeProcess;
use crate::host::driver::MeshChange;

impl EdgeProcess {
    /// A controller has cut this edge off: no peers, and every prefix unreachable, so that no packet
    /// leaves unencrypted.
    pub(super) async fn leave_mesh(&mut self, reason: &str) {
        if self.identity.is_cut_off() {
            return;
        }
        error!(%reason, "cut off from the mesh: links are closed, prefixes unreachable; \
            to come back, join again with a new token");
        self.identity.record_cut(reason, true);
        let peers = self.desired.peers();
        let gone = peers.map(|(name, _)| MeshChange::PeerGone(name.clone())).collect();
        self.driver.apply(gone).await;
        self.routes.set_cut(true).await;
    }

    /// A controller refuses this edge's certificate. If peers refuse it too, links end by themselves:
    /// nothing is taken down for it.
    pub(super) fn record_refusal(&mut self, reason: &str) {
        if self.identity.cut().is_none() {
            error!(%reason, "a controller refuses this edge; to come back, join again with a new token");
            self.identity.record_cut(reason, false);
        }
    }

    /// A controller has accepted this edge: a cut, if there was one, is over.
    pub(super) async fn rejoin_mesh(&mut self) {
        let Some(cut) = self.identity.clear_cut() else { return };
        info!("back in the mesh");
        if cut.in_force {
            self.driver.apply(self.links.all_peers(&self.desired)).await;
            self.routes.set_cut(false).await;
        }
    }

    /// Uses credentials that `join` or `import` has written while the process runs.
    pub(super) async fn check_credentials_on_disk(&mut self) {
        let Some(enrolment) = self.identity.load_newer_credentials() else { return };
        if enrolment.trust != self.desired.enrolment().trust {
            self.replace_trust(enrolment.trust.clone());
        }
        self.uplink.set_controllers(&enrolment.controllers).await;
        self.desired.set_enrolment(enrolment);
        self.driver.credentials_renewed();
        // A controller has just issued this certificate.
        self.rejoin_mesh().await;
    }

    pub(super) async fn renew_if_due(&mut self) {
        if let Some(csr) = self.identity.request_if_due(self.uplink.is_connected()) {
            self.uplink.request_certificate(csr).await;
        }
    }

    pub(super) fn finish_renewal(&mut self, result: Result<Enrolled, CallError>) {
        if self.identity.finish_renewal(result) {
            self.driver.credentials_renewed();
        }
    }
}

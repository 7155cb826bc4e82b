//! The session with a controller, and what it decides: out of the mesh and back in, renewal, and joining
//! again.

use cframe_pki::unix_now;
use cframe_protocol::{
    session::{CloseCode, Command, Event, SessionError},
    v1::GoodbyeReason,
};
use tracing::{error, info, warn};

use super::{EdgeProcess, uplink::is_about_time};
use crate::host::driver::MeshChange;

impl EdgeProcess {
    pub(super) async fn handle_session_event(&mut self, event: Event) {
        match event {
            Event::Connected { controller } => {
                // A controller that has cut this edge off accepts the connection before it refuses
                // the certificate.
                if self.identity.cut.is_none() {
                    info!(%controller, "session with a controller");
                }
                self.uplink.record_connected(controller);
                self.send_report().await;
            }
            Event::Desired { state, delta } => self.receive_state(state, delta).await,
            Event::RenewReply(result) => {
                if self.identity.finish_renewal(result) {
                    self.driver.credentials_renewed();
                }
            }
            Event::RenewNow => {
                self.identity.renewal.schedule_now();
                self.renew_if_due().await;
            }
            Event::Goodbye(reason) => self.handle_goodbye(reason).await,
            Event::Disconnected(error) => self.handle_disconnected(&error).await,
        }
    }

    async fn handle_goodbye(&mut self, reason: GoodbyeReason) {
        if reason == GoodbyeReason::Replaced {
            warn!(
                "another process has started a session with this identity: is its data directory in \
                 use on two hosts?"
            );
        }
        if reason == GoodbyeReason::InUse {
            self.uplink.record_in_use();
        }
        if let Some(reason) = cut_reason(reason.into()) {
            self.leave_mesh(reason).await;
        }
    }

    async fn handle_disconnected(&mut self, error: &SessionError) {
        if let SessionError::Closed(code) = error
            && let Some(reason) = cut_reason(*code)
        {
            self.leave_mesh(reason).await;
        }
        // A wrong clock ends, and joining again does not help against it.
        let is_refused = matches!(error, SessionError::CertificateRefused(_));
        let is_expired = self.identity.certificate().not_after < unix_now();
        if is_refused && (is_expired || !is_about_time(error)) {
            self.record_refusal(&error.to_string());
        }
        // `join` may have run in the meantime.
        self.check_credentials_on_disk().await;
        let cut_off = self.identity.is_cut_off();
        if self.uplink.record_disconnected(error, cut_off) && !cut_off {
            self.desired.record_confirmed();
        }
    }

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
        if self.identity.cut.is_none() {
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
        if enrolment.trust != self.desired.enrolment.trust {
            self.replace_trust(enrolment.trust.clone());
        }
        self.uplink.set_controllers(&enrolment.controllers).await;
        self.desired.enrolment = enrolment;
        self.driver.credentials_renewed();
        // A controller has just issued this certificate.
        self.rejoin_mesh().await;
    }

    pub(super) async fn renew_if_due(&mut self) {
        if let Some(csr) = self.identity.request_if_due(self.uplink.is_connected()) {
            self.uplink.send(Command::Renew { csr }).await;
        }
    }
}

/// Why a controller that closes with this code has cut the edge off, if it has.
fn cut_reason(code: CloseCode) -> Option<&'static str> {
    match code {
        CloseCode::Revoked => Some("its certificate was revoked"),
        CloseCode::Removed => Some("it was removed from its namespace"),
        CloseCode::Done
        | CloseCode::Protocol
        | CloseCode::Shutdown
        | CloseCode::Busy
        | CloseCode::InUse => None,
    }
}

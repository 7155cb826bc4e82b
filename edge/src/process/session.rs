//! Events of the session with a controller.

use cframe_protocol::{
    session::{CloseCode, Event, SessionError},
    v1::GoodbyeReason,
};
use tracing::{debug, info, warn};

use super::EdgeProcess;

impl EdgeProcess {
    pub(super) async fn handle_session_event(&mut self, event: Event) {
        match event {
            Event::Connected { controller } => {
                // A controller that has cut this edge off accepts the connection before it refuses
                // the certificate.
                if self.identity.cut().is_none() {
                    info!(%controller, "session with a controller");
                }
                self.uplink.record_connected(controller);
                self.send_report().await;
            }
            Event::Desired { state, delta } => self.receive_state(state, delta).await,
            Event::RenewReply(result) => self.finish_renewal(result),
            Event::RenewNow => {
                self.identity.schedule_renewal_now();
                self.renew_if_due().await;
            }
            Event::Goodbye(reason) => self.handle_goodbye(reason).await,
            Event::Disconnected(error) => self.handle_disconnected(&error).await,
        }
    }

    async fn handle_goodbye(&mut self, reason: GoodbyeReason) {
        match reason {
            GoodbyeReason::Revoked | GoodbyeReason::Removed => {
                if let Some(reason) = cut_reason(reason.into()) {
                    self.leave_mesh(reason).await;
                }
            }
            GoodbyeReason::Replaced => warn!(
                "another process has started a session with this identity: is its data directory in use on two hosts?"
            ),
            GoodbyeReason::Shutdown => debug!("the controller stops"),
        }
    }

    async fn handle_disconnected(&mut self, error: &SessionError) {
        if let SessionError::Closed(code) = error
            && let Some(reason) = cut_reason(*code)
        {
            self.leave_mesh(reason).await;
        }
        if matches!(error, SessionError::CertificateRefused(_)) {
            self.record_refusal(&error.to_string());
        }
        // `join` may have run in the meantime.
        self.check_credentials_on_disk().await;
        let cut_off = self.identity.is_cut_off();
        if self.uplink.record_disconnected(error, cut_off) && !cut_off {
            self.desired.record_confirmed();
        }
    }
}

/// Why a controller that closes with this code has cut the edge off, if it has.
fn cut_reason(code: CloseCode) -> Option<&'static str> {
    match code {
        CloseCode::Revoked => Some("its certificate was revoked"),
        CloseCode::Removed => Some("it was removed from its namespace"),
        CloseCode::Done | CloseCode::Protocol | CloseCode::Shutdown | CloseCode::Busy => None,
    }
}

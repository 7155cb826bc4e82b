//! What the tasks of a controller share.

use std::{path::PathBuf, time::Instant};

use cframe_pki::{identity::Label, tls::LiveCredentials};
use tokio_util::sync::CancellationToken;

use crate::{
    keys::{authorities::Authorities, issuer::LiveIssuer},
    mesh::Replica,
};

mod connections;

pub(crate) use connections::PeerConnections;

pub(crate) struct Context {
    pub(crate) replica: Replica,
    /// The issuing CA in use.
    pub(crate) issuer: LiveIssuer,
    /// All issuing CAs of this controller, if they are on disk.
    pub(crate) authorities: Option<Authorities>,
    /// The controller's own certificate.
    pub(crate) credentials: LiveCredentials,
    /// Where renewed credentials are saved, if anywhere.
    pub(crate) credentials_dir: Option<PathBuf>,
    /// Held while the issuing CA or the controller's certificate is replaced.
    pub(crate) renewing: tokio::sync::Mutex<()>,
    /// The enrolment port, for join tokens.
    pub(crate) enroll_port: u16,
    pub(crate) started: Instant,
    /// `started` in Unix seconds.
    pub(crate) started_at: u64,
    /// Cancelled when the controller stops: ends answers that would go on.
    pub(crate) stop: CancellationToken,
    /// Open connections to other controllers.
    pub(crate) peers: PeerConnections,
}

impl Context {
    /// The controller's name.
    pub(crate) fn name(&self) -> Label {
        self.credentials.identity().id.role.name().clone()
    }

    /// Whether this controller is registered, and its certificate accepted.
    pub(crate) fn is_member(&self) -> bool {
        let accepted = self.replica.trust().denial(&self.credentials.identity()).is_ok();
        accepted && self.replica.read(|state| state.is_controller(&self.name()))
    }
}

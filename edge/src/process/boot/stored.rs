//! What the data directory has for a start.

use std::path::Path;

use anyhow::{Result, bail};
use cframe_pki::{
    bundle::DenyList,
    identity::{Label, PeerIdentity, Role},
    tls::Credentials,
    verifier::{PeerSide, PeerVerifier, Policy, Refusal, Trust},
};
use cframe_protocol::{
    LINK_PORT,
    v1::{Endpoint, Settings},
};
use tracing::warn;

use crate::{
    snapshot::{self, Snapshot},
    state::{self, Enrolment, State},
};

pub(super) struct Stored {
    pub(super) state: State,
    pub(super) credentials: Credentials,
    pub(super) identity: PeerIdentity,
    pub(super) enrolment: Enrolment,
    /// The last state, if it can be started from.
    pub(super) snapshot: Option<Snapshot>,
}

impl Stored {
    pub(super) fn load(dir: &Path) -> Result<Self> {
        let state = State::open(dir)?;
        let (credentials, identity, enrolment) = state::load(&state.dir)?;
        let snapshot = load_snapshot(&state.dir, &credentials, &identity);
        Ok(Self { state, credentials, identity, enrolment, snapshot })
    }

    pub(super) fn namespace_and_name(&self) -> Result<(Label, Label)> {
        match &self.identity.id.role {
            Role::Edge { namespace, name } => Ok((namespace.clone(), name.clone())),
            Role::Controller { .. } | Role::Admin { .. } => {
                bail!("{} is not an edge's identity", self.identity.id)
            }
        }
    }

    /// The newest settings of the namespace.
    pub(super) fn settings(&self) -> Settings {
        self.snapshot.as_ref().map_or(self.enrolment.settings, |snapshot| snapshot.desired.settings)
    }

    /// The UDP port of links, if the configuration has none.
    pub(super) fn listen_port(&self) -> u16 {
        match self.enrolment.listen_port {
            0 => LINK_PORT,
            port => port,
        }
    }

    /// The controllers of the newest state that has any.
    pub(super) fn controllers(&self) -> Vec<Endpoint> {
        let known = self.snapshot.as_ref().map(|snapshot| &snapshot.desired.controllers);
        match known.filter(|known| !known.is_empty()) {
            Some(known) => known.iter().cloned().collect(),
            None => self.enrolment.controllers.clone(),
        }
    }

    /// The newest trust bundle that can be used, except for what is denied.
    pub(super) fn trust(&self) -> Result<Trust> {
        let (mesh, enrolled) = (&self.identity.id.mesh, &self.enrolment.trust);
        let snapshot = self.snapshot.as_ref();
        let denied: DenyList = snapshot
            .into_iter()
            .flat_map(|snapshot| {
                snapshot.desired.denied.iter().cloned().chain(snapshot.denied.iter())
            })
            .collect();
        let bundle = snapshot.map_or(enrolled, |snapshot| &snapshot.desired.trust);
        match Trust::new(mesh.clone(), bundle.clone(), denied.clone()) {
            Ok(trust) => Ok(trust),
            Err(error) => {
                warn!(%error, "the state on disk has no usable trust bundle; using the one of enrolment");
                Ok(Trust::new(mesh.clone(), enrolled.clone(), denied)?)
            }
        }
    }
}

/// A snapshot that cannot be used is logged and left alone; the controller sends another.
fn load_snapshot(
    dir: &Path,
    credentials: &Credentials,
    identity: &PeerIdentity,
) -> Option<Snapshot> {
    let unusable = match snapshot::load(&dir.join(snapshot::FILE)) {
        Ok(None) => return None,
        Ok(Some(snapshot)) if snapshot.id != identity.id => {
            format!("it is of another edge, {}", snapshot.id)
        }
        Ok(Some(snapshot)) if distrusts(&snapshot, credentials, identity) => {
            "it does not trust the root of this edge's certificate".to_owned()
        }
        Ok(Some(snapshot)) => return Some(snapshot),
        Err(error) => format!("{:#}", anyhow::Error::new(error)),
    };
    warn!("the state on disk is not used: {unusable}; waiting for a controller");
    None
}

/// Whether a newer certificate, of a later `join`, has a root that the state does not know: after a
/// rotation of roots, or in a mesh that was made again. By that state no controller would be trusted.
fn distrusts(snapshot: &Snapshot, credentials: &Credentials, identity: &PeerIdentity) -> bool {
    let (mesh, bundle) = (identity.id.mesh.clone(), snapshot.desired.trust.clone());
    let Ok(trust) = Trust::new(mesh, bundle, DenyList::default()) else { return false };
    let verifier = PeerVerifier::new(trust, Policy::ControlClients);
    // Judged within its lifetime: whether it has expired is another question.
    let judged = verifier.judge(&credentials.chain, PeerSide::Client, identity.not_after);
    matches!(judged, Err(Refusal::NotTrusted(_)))
}

#[cfg(test)]
mod tests;

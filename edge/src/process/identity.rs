//! Who this edge is: credentials, whom it trusts, the renewal of its certificate, and whether a
//! controller has cut it off.

mod refusals;
mod renewal;

use std::{sync::Arc, time::Instant};

use anyhow::{Result, bail};
use cframe_pki::{
    Serial,
    bundle::{DenyList, TrustBundle},
    identity::{Label, PeerIdentity},
    key::PrivateKey,
    renewal::days_left,
    tls::LiveCredentials,
    unix_now,
    verifier::Trust,
};
use cframe_protocol::v1::{CallError, Enrolled};
use tracing::{debug, error, info, warn};

use crate::{
    state::{self, Cut, Enrolment, State},
    status::CertificateStatus,
};
pub(super) use refusals::Refusals;
use renewal::Renewal;

pub(super) struct Identity {
    pub(super) name: Label,
    state: State,
    credentials: LiveCredentials,
    pub(super) trust: Trust,
    pub(super) refusals: Refusals,
    pub(super) renewal: Renewal,
    pub(super) cut: Option<Cut>,
    /// The certificate on disk of another identity that was logged.
    other_logged: Option<Serial>,
}

impl Identity {
    pub(super) fn new(
        name: Label,
        state: State,
        credentials: LiveCredentials,
        trust: Trust,
        refusals: Refusals,
    ) -> Self {
        let identity = credentials.identity();
        let cut = Cut::load(&state.dir, identity.serial);
        if let Some(cut) = &cut {
            let secs_ago = unix_now().saturating_sub(cut.at);
            warn!(reason = %cut.reason, secs_ago, "a controller has cut this edge off; peers will \
                refuse it; to come back, join again with a new token");
        }
        let renewal = Renewal::new(&identity);
        Self { name, state, credentials, trust, refusals, renewal, cut, other_logged: None }
    }

    pub(super) fn certificate(&self) -> Arc<PeerIdentity> {
        self.credentials.identity()
    }

    /// Trusts this bundle from now on, except for what is denied. A bundle that cannot be used is
    /// logged and the old one stays; returns whether the new one is in use.
    pub(super) fn replace_trust(&self, bundle: TrustBundle, denied: DenyList) -> bool {
        let replaced = self.trust.replace(bundle, denied);
        if let Err(error) = &replaced {
            error!(%error, "the new trust bundle cannot be used; the old one stays");
        }
        replaced.is_ok()
    }

    /// Whether links and routes are down because a controller has cut this edge off.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.in_force)
    }

    /// `in_force`: links and routes are taken down for it.
    pub(super) fn record_cut(&mut self, reason: &str, in_force: bool) {
        let cut = Cut::new(reason, self.credentials.identity().serial, in_force);
        cut.save(&self.state.dir);
        self.cut = Some(cut);
    }

    /// Clears the cut and returns it, if there was one.
    pub(super) fn clear_cut(&mut self) -> Option<Cut> {
        let cut = self.cut.take()?;
        Cut::forget(&self.state.dir);
        Some(cut)
    }

    /// A CSR for a new key, if renewal is due; a certificate close to its end is logged.
    pub(super) fn request_if_due(&mut self, connected: bool) -> Option<Vec<u8>> {
        let now = unix_now();
        self.renewal.warn_of_expiry(&self.credentials.identity(), now);
        match connected && self.renewal.is_due(now, Instant::now()) {
            true => self.renewal.request(now, Instant::now()),
            false => None,
        }
    }

    /// Uses the certificate that a controller has issued for the last request; returns whether the
    /// credentials are new.
    pub(super) fn finish_renewal(&mut self, result: Result<Enrolled, CallError>) -> bool {
        let Some(key) = self.renewal.pending.take() else {
            warn!("a certificate arrived that was not requested");
            return false;
        };
        let used = match result {
            Ok(enrolled) => self.use_certificate(key, &enrolled),
            Err(error) => Err(error.into()),
        };
        match used {
            Ok(identity) => {
                info!(serial = %identity.serial, not_after = identity.not_after, "certificate renewed");
                self.renewal = Renewal::new(&identity);
                true
            }
            Err(error) => {
                warn!("the certificate was not renewed: {error:#}; retrying within the hour");
                self.renewal.error = Some(format!("{error:#}"));
                false
            }
        }
    }

    fn use_certificate(&self, key: PrivateKey, enrolled: &Enrolled) -> Result<PeerIdentity> {
        let credentials = state::credentials(key, enrolled)?;
        let identity = credentials.identity()?;
        let own = &self.credentials.identity().id;
        if identity.id != *own {
            bail!("the new certificate is for {} and this edge is {own}", identity.id);
        }
        // Saved before it is used: a key that was used and then lost looks like a stolen one.
        credentials.save(&self.state.dir)?;
        self.credentials.replace(credentials)?;
        Ok(identity)
    }

    /// Uses newer credentials that `join` or `import` has written while the process runs, and returns
    /// their enrolment. Another identity's are logged: they need a restart.
    pub(super) fn load_newer_credentials(&mut self) -> Option<Enrolment> {
        let own = self.credentials.identity();
        // Files may be half written; the next check reads them again.
        let found = state::load(&self.state.dir);
        let (credentials, identity, enrolment) =
            found.inspect_err(|error| debug!("credentials on disk: {error:#}")).ok()?;
        if identity.id != own.id {
            if self.other_logged.replace(identity.serial) != Some(identity.serial) {
                warn!(id = %identity.id, "another identity was joined; restart to use it");
            }
            return None;
        }
        if identity.serial == own.serial {
            return None;
        }
        if let Err(error) = self.credentials.replace(credentials) {
            warn!(%error, "the new credentials cannot be used");
            return None;
        }
        info!(serial = %identity.serial, "joined again; the new certificate is in use");
        self.renewal = Renewal::new(&identity);
        Cut::forget(&self.state.dir);
        Some(enrolment)
    }

    pub(super) fn status(&self) -> CertificateStatus {
        let identity = self.credentials.identity();
        let now = unix_now();
        CertificateStatus {
            serial: identity.serial.to_string(),
            not_before: identity.not_before,
            not_after: identity.not_after,
            days_left: days_left(identity.not_after, now),
            renew_at: self.renewal.next(now),
            renewal_error: self.renewal.error.clone(),
        }
    }
}

//! Credentials that `join` or `import` has written while we run.

use cframe_pki::{identity::PeerIdentity, tls::Credentials};
use cframe_protocol::session::Command;
use tracing::{debug, info, warn};

use super::{Site, boot, renew::Renewal};
use crate::state::{self, Cut, Enrolment};

/// What was found in the data directory.
enum Found {
    /// What we have.
    Same,
    /// Newer credentials of ours.
    Ours(Box<(Credentials, PeerIdentity, Enrolment)>),
    /// Another identity's.
    Another(PeerIdentity),
}

impl Site {
    /// Takes up what has been written since; a restart is needed only for another identity.
    pub(super) async fn look_for_credentials(&mut self) {
        match self.find_credentials() {
            // Perhaps half written: looked at again.
            Err(error) => debug!("credentials on disk: {error:#}"),
            Ok(Found::Same) => {}
            Ok(Found::Another(identity)) => self.warn_of_another(&identity),
            Ok(Found::Ours(found)) => {
                let (credentials, identity, enrolment) = *found;
                match self.credentials.replace(credentials) {
                    Ok(()) => self.joined_again(&identity, enrolment).await,
                    Err(error) => warn!(%error, "the new credentials cannot be used"),
                }
            }
        }
    }

    fn find_credentials(&self) -> anyhow::Result<Found> {
        let ours = self.credentials.identity();
        let (credentials, identity, enrolment) = state::load(&self.state.dir)?;
        Ok(if identity.serial == ours.serial && identity.id == ours.id {
            Found::Same
        } else if identity.id == ours.id {
            Found::Ours(Box::new((credentials, identity, enrolment)))
        } else {
            Found::Another(identity)
        })
    }

    async fn joined_again(&mut self, identity: &PeerIdentity, enrolment: Enrolment) {
        info!(serial = %identity.serial, "joined again: the new certificate is in use");
        if enrolment.trust != self.enrolment.trust {
            self.replace_trust(enrolment.trust.clone());
        }
        let addresses = boot::addresses(&self.config, &enrolment, None);
        self.enrolment = enrolment;
        if self.client.addresses != addresses {
            self.client.addresses = addresses;
            self.tell(Command::Client(self.client.clone())).await;
        }
        self.renewal = Renewal::new(identity);
        self.driver.credentials_renewed();
        // A controller has just certified us.
        self.back_in().await;
        Cut::forget(&self.state.dir);
    }

    fn warn_of_another(&mut self, identity: &PeerIdentity) {
        if self.another_told.replace(identity.serial) != Some(identity.serial) {
            warn!(id = %identity.id, "another identity was joined: restart, to be it");
        }
    }
}

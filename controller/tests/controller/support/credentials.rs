//! Keys, certificates, and the clients that use them.

use std::{path::Path, sync::Arc};

use cframe_controller::cli::{AdminContext, Contexts};
use cframe_pki::{
    CertificateDer, Serial,
    bundle::{DenyList, TrustBundle},
    key::PrivateKey,
    tls::{self, Credentials, LiveCredentials},
    verifier::{PeerVerifier, Policy, Trust},
};
use cframe_protocol::{
    session::Client,
    v1::{AdminEnrolled, Endpoint, Enrolled},
};
use rustls::pki_types::pem::PemObject;

/// A request for a key that nobody keeps.
pub(crate) fn new_csr() -> Vec<u8> {
    PrivateKey::generate().unwrap().csr().unwrap().to_vec()
}

/// The key of an edge and what the controller sent for it.
pub(crate) struct EdgeIdentity {
    pub(crate) enrolled: Enrolled,
    pub(crate) key: PrivateKey,
}

impl EdgeIdentity {
    pub(crate) fn credentials(&self) -> Credentials {
        credentials(&self.enrolled.chain, &self.key)
    }

    pub(crate) fn serial(&self) -> Serial {
        self.credentials().identity().unwrap().serial
    }

    pub(crate) fn client(&self) -> Client {
        let Enrolled { trust, controllers, .. } = self.enrolled.clone();
        client(&self.credentials(), trust, controllers)
    }
}

/// The key of an admin and what the controller sent for it.
pub(crate) struct AdminIdentity {
    pub(crate) enrolled: AdminEnrolled,
    pub(crate) key: PrivateKey,
}

impl AdminIdentity {
    pub(crate) fn serial(&self) -> Serial {
        credentials(&self.enrolled.chain, &self.key).identity().unwrap().serial
    }

    pub(crate) fn client(&self) -> Client {
        let AdminEnrolled { trust, controllers, .. } = self.enrolled.clone();
        client(&credentials(&self.enrolled.chain, &self.key), trust, controllers)
    }
}

fn credentials(chain: &[Vec<u8>], key: &PrivateKey) -> Credentials {
    let chain = chain.iter().cloned().map(CertificateDer::from).collect();
    Credentials { chain, key: key.clone() }
}

/// A client for the controllers at these addresses.
pub(crate) fn client(
    credentials: &Credentials,
    bundle: TrustBundle,
    addresses: Vec<Endpoint>,
) -> Client {
    let mesh = credentials.identity().unwrap().id.mesh;
    let trust = Trust::new(mesh, bundle, DenyList::default()).unwrap();
    let live = LiveCredentials::new(credentials.clone()).unwrap();
    let verifier = PeerVerifier::new(trust, Policy::Controller);
    Client { addresses, tls: Arc::new(tls::control_client(&live, verifier)), mark: None }
}

/// The client of an admin as `cfctl` makes it from its file.
pub(crate) fn admin_client(context: &AdminContext) -> Client {
    let certificates = |text: &str| {
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap()
    };
    let credentials = Credentials {
        chain: certificates(&context.certificate),
        key: PrivateKey::from_pem(context.key.as_bytes()).unwrap(),
    };
    let bundle = TrustBundle { roots: certificates(&context.trust), ..TrustBundle::default() };
    let addresses = context.controllers.iter().map(|text| text.parse().unwrap()).collect();
    client(&credentials, bundle, addresses)
}

/// The admin of the current context in a file.
pub(crate) fn admin_of(path: &Path) -> Client {
    let contexts = Contexts::load(path).unwrap();
    let current = contexts.current.unwrap();
    admin_client(&contexts.contexts[&current])
}

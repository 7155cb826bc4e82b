//! The certificate authority of the mesh `test`.

use std::time::Duration;

use cframe_pki::{
    bundle::{DenyList, TrustBundle},
    identity::SpiffeId,
    issue::{IssuingCa, RootCa, VerifiedCsr},
    key::PrivateKey,
    tls::Credentials,
    unix_now,
    verifier::Trust,
};

pub(crate) struct Authority {
    root: RootCa,
    ca: IssuingCa,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let root = RootCa::generate(&"test".parse().unwrap(), unix_now()).unwrap();
        let ca = root.issuing_ca(unix_now()).unwrap();
        Self { root, ca }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        let roots = vec![self.root.certificate().clone()];
        TrustBundle { roots, revoked_issuers: Default::default() }
    }

    pub(crate) fn issue(
        &self,
        namespace: &str,
        name: &str,
        lifetime: Duration,
    ) -> (SpiffeId, Credentials) {
        let mesh = "test".parse().unwrap();
        let id = SpiffeId::edge(mesh, namespace.parse().unwrap(), name.parse().unwrap());
        let key = PrivateKey::generate().unwrap();
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let leaf = self.ca.issue(&csr, &id, lifetime, unix_now()).unwrap();
        (id, Credentials { chain: vec![leaf.der, self.ca.certificate().clone()], key })
    }

    /// Trust in this authority with an empty deny-list.
    pub(crate) fn trust(&self) -> Trust {
        Trust::new("test".parse().unwrap(), self.bundle(), DenyList::default()).unwrap()
    }
}

//! The root CA, whose key can lie in a safe once it has made an issuing CA.

use std::time::Duration;

use super::{
    Authority, BACKDATE, CaError, ISSUING_LIFETIME, IssueError, IssuingCa, ROOT_LIFETIME,
    VerifiedCsr, params, params::Validity,
};
use crate::{
    CertificateDer, Fingerprint,
    identity::MeshName,
    key::{PrivateKey, Signer},
    spki::PublicKey,
};

/// The CA that a mesh trusts. It makes issuing CAs, no leaves.
#[derive(Clone, Debug)]
pub struct RootCa(Authority);

impl RootCa {
    /// Makes a root with a new key. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the system's random source or signing fails.
    pub fn generate(mesh: &MeshName, now: u64) -> Result<Self, IssueError> {
        let key = PrivateKey::generate().map_err(sign)?;
        let validity = Validity {
            not_before: now.saturating_sub(BACKDATE.as_secs()),
            not_after: now.saturating_add(ROOT_LIFETIME.as_secs()),
        };
        let name = common_name("root", key.spki_sha256());
        let mut params = params::authority(mesh, &name, 1, params::serial()?, &validity)?;
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&Signer(&key)).map_err(sign)?;
        Self::new(certificate.into(), key).map_err(|error| IssueError::Check(error.to_string()))
    }

    /// Puts a root together from its certificate and key.
    ///
    /// # Errors
    /// When the certificate is no root CA of a mesh, or the key is another's.
    pub fn new(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, CaError> {
        Authority::new(certificate, key, 1).map(Self)
    }

    /// Makes an issuing CA with a new key. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the root is not valid now, or signing fails.
    pub fn issuing_ca(&self, now: u64) -> Result<IssuingCa, IssueError> {
        let key = PrivateKey::generate().map_err(sign)?;
        let certificate = self.certify(key.public(), ISSUING_LIFETIME, now)?;
        IssuingCa::new(certificate, key).map_err(|error| IssueError::Check(error.to_string()))
    }

    /// Makes the certificate of an issuing CA whose key was made elsewhere: on the controller that
    /// will use it. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the root is not valid now, or signing fails.
    pub fn sign_issuing(
        &self,
        csr: &VerifiedCsr,
        now: u64,
    ) -> Result<CertificateDer<'static>, IssueError> {
        self.certify(csr.public(), ISSUING_LIFETIME, now)
    }

    /// The root's certificate, for trust bundles.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// The root's key.
    pub fn key(&self) -> &PrivateKey {
        &self.0.key
    }

    /// What join tokens pin.
    pub fn spki_sha256(&self) -> Fingerprint {
        self.0.key.spki_sha256()
    }

    /// The mesh.
    pub fn mesh(&self) -> &MeshName {
        &self.0.mesh
    }

    /// The end of its validity in Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.0.not_after
    }

    fn certify(
        &self,
        public: &PublicKey,
        lifetime: Duration,
        now: u64,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let validity = self.0.validity(lifetime, now)?;
        let name = common_name("issuing", public.fingerprint());
        let params = params::authority(&self.0.mesh, &name, 0, params::serial()?, &validity)?;
        self.0.sign(&params, public)
    }
}

/// Names the key, so that two CAs never have the same subject; not the mesh, which may be longer
/// than the 64 characters of a common name (RFC 5280, ub-common-name).
fn common_name(kind: &str, spki: Fingerprint) -> String {
    format!("cframe {kind} CA {}", &spki.to_string()[..16])
}

fn sign(error: impl std::error::Error) -> IssueError {
    IssueError::Sign(error.to_string())
}

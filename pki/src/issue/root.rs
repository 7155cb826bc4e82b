//! The root CA. Its key is only needed to make issuing CAs and can be kept offline.

use super::{
    BACKDATE, ISSUING_LIFETIME, IssueError, IssuingCa, ROOT_LIFETIME,
    authority::Authority,
    certificate::CaError,
    csr::VerifiedCsr,
    params::{self, Validity},
};
use crate::{
    CertificateDer, Fingerprint,
    identity::MeshName,
    key::{PrivateKey, Signer},
    spki::PublicKey,
};

/// The CA that a mesh trusts. It signs issuing CAs and no leaves.
#[derive(Clone, Debug)]
pub struct RootCa(Authority);

impl RootCa {
    /// Makes a root with a new key. `now` is in Unix seconds.
    pub fn generate(mesh: &MeshName, now: u64) -> Result<Self, IssueError> {
        let key = PrivateKey::generate().map_err(sign_error)?;
        let validity = Validity {
            not_before: now.saturating_sub(BACKDATE.as_secs()),
            not_after: now.saturating_add(ROOT_LIFETIME.as_secs()),
        };
        let name = common_name("root", key.spki_sha256());
        let mut params = params::authority(mesh, &name, 1, params::serial()?, &validity)?;
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&Signer(&key)).map_err(sign_error)?;
        Self::new(certificate.into(), key).map_err(|error| IssueError::Check(error.to_string()))
    }

    pub fn new(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, CaError> {
        Authority::new(&certificate, key, 1).map(Self)
    }

    /// Makes an issuing CA with a new key. `now` is in Unix seconds.
    pub fn issuing_ca(&self, now: u64) -> Result<IssuingCa, IssueError> {
        let key = PrivateKey::generate().map_err(sign_error)?;
        let certificate = self.certify(key.public(), now)?;
        IssuingCa::new(certificate, key).map_err(|error| IssueError::Check(error.to_string()))
    }

    /// Makes the certificate of an issuing CA whose key stays on the controller that made the
    /// request. `now` is in Unix seconds.
    pub fn sign_issuing(
        &self,
        csr: &VerifiedCsr,
        now: u64,
    ) -> Result<CertificateDer<'static>, IssueError> {
        self.certify(csr.public(), now)
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate.der
    }

    pub fn key(&self) -> &PrivateKey {
        &self.0.key
    }

    /// Join tokens pin this.
    pub fn spki_sha256(&self) -> Fingerprint {
        self.0.certificate.spki
    }

    pub fn mesh(&self) -> &MeshName {
        &self.0.certificate.mesh
    }

    /// The last valid second, in Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.0.certificate.not_after
    }

    fn certify(&self, public: &PublicKey, now: u64) -> Result<CertificateDer<'static>, IssueError> {
        let validity = self.0.validity(ISSUING_LIFETIME, now)?;
        let name = common_name("issuing", public.fingerprint());
        let params = params::authority(self.mesh(), &name, 0, params::serial()?, &validity)?;
        self.0.sign(&params, public)
    }
}

/// Names the key, so that no two CAs have the same subject. It leaves the mesh out, whose name may
/// exceed the 64 characters of a common name (RFC 5280, ub-common-name).
fn common_name(kind: &str, spki: Fingerprint) -> String {
    format!("cframe {kind} CA {}", &spki.to_string()[..16])
}

fn sign_error(error: impl std::error::Error) -> IssueError {
    IssueError::Sign(error.to_string())
}

//! Certificate authorities: a root, and below it issuing CAs that sign the leaves.
//!
//! Only the public key of a signing request goes into a certificate. The names and extensions that the
//! request has are ignored.

mod authority;
mod certificate;
mod csr;
mod files;
mod params;
mod root;

use std::time::Duration;

use crate::{
    CertificateDer, Fingerprint, Serial,
    identity::{MeshName, PeerIdentity, SpiffeId},
    key::PrivateKey,
    verifier::verify_chain,
};

use authority::Authority;
pub use certificate::{CaCertificate, CaError, RootError};
pub use csr::{CsrError, VerifiedCsr};
pub use files::{
    CaFileError, read_certificate, read_certificates, write_certificates, write_request,
};
pub use root::RootCa;

const DAY: u64 = 86_400;

/// Default validity of a leaf.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * DAY);

/// Validity of an issuing CA, unless its root expires earlier.
pub const ISSUING_LIFETIME: Duration = Duration::from_secs(3 * 365 * DAY);

pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * DAY);

/// A certificate's validity starts this long before it is made, for hosts whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(3600);

/// A CA that signs leaves and no CAs: its path length is 0.
#[derive(Clone, Debug)]
pub struct IssuingCa(Authority);

/// A leaf, and what the store records of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    pub der: CertificateDer<'static>,
    pub serial: Serial,
    pub not_before: u64,
    /// The last valid second.
    pub not_after: u64,
    pub spki_sha256: Fingerprint,
}

/// Why a certificate was not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error("{id} is not an identity of the mesh {mesh}, which this CA belongs to")]
    OtherMesh { id: Box<SpiffeId>, mesh: MeshName },
    #[error(
        "the CA's certificate is valid from {not_before} to {not_after} and the clock says {now} \
         (Unix seconds): fix the clock, or make a new CA"
    )]
    CaNotValid { not_before: u64, not_after: u64, now: u64 },
    #[error("a certificate that is valid for {0:?} is of no use")]
    Lifetime(Duration),
    /// The system's random source or the signature failed.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
    /// Peers would not accept what was signed; it was thrown away.
    #[error("the certificate failed its check after signing: {0}")]
    Check(String),
}

impl IssuingCa {
    pub fn new(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, CaError> {
        Authority::new(&certificate, key, 0).map(Self)
    }

    /// Makes a leaf for the requested key, at `now` (Unix seconds).
    ///
    /// Its only name is `id`, its only use TLS as client and server, and it expires no later than
    /// this CA.
    pub fn issue(
        &self,
        csr: &VerifiedCsr,
        id: &SpiffeId,
        lifetime: Duration,
        now: u64,
    ) -> Result<IssuedCertificate, IssueError> {
        if id.mesh != *self.mesh() {
            let (id, mesh) = (Box::new(id.clone()), self.mesh().clone());
            return Err(IssueError::OtherMesh { id, mesh });
        }
        if lifetime.as_secs() == 0 {
            return Err(IssueError::Lifetime(lifetime));
        }
        let validity = self.0.validity(lifetime, now)?;
        let serial = params::serial()?;
        let params = params::leaf(id, serial, &validity)?;
        let issued = IssuedCertificate {
            der: self.0.sign(&params, csr.public())?,
            serial,
            not_before: validity.not_before,
            not_after: validity.not_after,
            spki_sha256: csr.spki_sha256(),
        };
        self.check(&issued, id, now).map_err(IssueError::Check)?;
        Ok(issued)
    }

    /// Goes into chains after the leaf.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate.der
    }

    pub fn key(&self) -> &PrivateKey {
        &self.0.key
    }

    /// A trust bundle revokes the CA by this.
    pub fn spki_sha256(&self) -> Fingerprint {
        self.0.certificate.spki
    }

    pub fn mesh(&self) -> &MeshName {
        &self.0.certificate.mesh
    }

    /// In Unix seconds.
    pub fn not_before(&self) -> u64 {
        self.0.certificate.not_before
    }

    /// The last valid second, in Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.0.certificate.not_after
    }

    /// Verifies a new leaf as a peer will, before anybody gets it.
    fn check(&self, issued: &IssuedCertificate, id: &SpiffeId, now: u64) -> Result<(), String> {
        let anchor = webpki::anchor_from_trusted_cert(self.certificate())
            .map_err(|error| error.to_string())?;
        let chain = [issued.der.clone()];
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            verify_chain(&chain, std::slice::from_ref(&anchor), now, usage)
                .map_err(|refusal| refusal.to_string())?;
        }
        let read = PeerIdentity::from_chain(&chain).map_err(|error| error.to_string())?;
        let requested = PeerIdentity {
            id: id.clone(),
            serial: issued.serial,
            spki: issued.spki_sha256,
            issuer: None,
            not_before: issued.not_before,
            not_after: issued.not_after,
        };
        if read != requested {
            return Err("its content differs from what was requested".to_owned());
        }
        Ok(())
    }
}

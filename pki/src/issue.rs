//! Certificate authorities: a root, and issuing CAs below it that make the leaves.
//!
//! Of a signing request nothing but the public key goes into a certificate. A request may ask for a
//! CA's rights or for somebody else's name; it is not asked.

mod authority;
mod certificate;
mod csr;
mod files;
mod params;
mod root;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::{
    CertificateDer, Fingerprint, Serial,
    identity::{MeshName, PeerIdentity, SpiffeId},
    key::PrivateKey,
    verifier::verify_chain,
};

use authority::Authority;
pub use authority::CaError;
pub use certificate::{CaCertificate, RootError};
pub use csr::{CsrError, VerifiedCsr};
pub use files::{
    CaFileError, read_certificate, read_certificates, write_certificates, write_request,
};
pub use root::RootCa;

const DAY: u64 = 86_400;

/// How long a leaf is valid unless it is told otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * DAY);

/// How long an issuing CA is valid, unless its root ends before.
pub const ISSUING_LIFETIME: Duration = Duration::from_secs(3 * 365 * DAY);

/// How long a root is valid.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * DAY);

/// How far back a certificate's validity begins, for hosts whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(3600);

/// A CA that makes leaves, and no CAs: its path length is 0.
#[derive(Clone, Debug)]
pub struct IssuingCa(Authority);

/// A leaf, and what the store keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its serial.
    pub serial: Serial,
    /// Valid from this Unix second on.
    pub not_before: u64,
    /// Valid up to and with this Unix second.
    pub not_after: u64,
    /// The public key's fingerprint.
    pub spki_sha256: Fingerprint,
}

/// Why a certificate was not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The identity belongs to another mesh than the CA.
    #[error("{id} is not an identity of the mesh {mesh}, which this CA belongs to")]
    OtherMesh {
        /// The identity asked for.
        id: Box<SpiffeId>,
        /// The CA's mesh.
        mesh: MeshName,
    },
    /// The CA's own certificate is not valid now.
    #[error(
        "the CA's certificate is valid from {not_before} to {not_after} and the clock says {now} \
         (Unix seconds): mend the clock, or make a new CA"
    )]
    CaNotValid {
        /// The beginning of the CA's validity.
        not_before: u64,
        /// Its end.
        not_after: u64,
        /// The clock.
        now: u64,
    },
    /// A lifetime of nothing.
    #[error("a certificate that is valid for {0:?} is of no use")]
    Lifetime(Duration),
    /// The system's random source or the signature failed.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
    /// What was signed isn't what a peer would accept; nothing was handed out.
    #[error("the certificate failed its check after signing: {0}")]
    Check(String),
}

impl IssuingCa {
    /// Puts a CA together from its certificate and key.
    ///
    /// # Errors
    /// When the certificate is no issuing CA of a mesh, or the key is another's.
    pub fn new(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, CaError> {
        Authority::new(certificate, key, 0).map(Self)
    }

    /// Makes a leaf for the requested key.
    ///
    /// It has exactly one name, `id`; it is good for TLS on both sides and for nothing else, and never
    /// outlives this CA. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the identity is another mesh's, the CA is not valid now, or signing fails.
    pub fn issue(
        &self,
        csr: &VerifiedCsr,
        id: &SpiffeId,
        lifetime: Duration,
        now: u64,
    ) -> Result<IssuedCertificate, IssueError> {
        if id.mesh != self.0.mesh {
            return Err(IssueError::OtherMesh {
                id: Box::new(id.clone()),
                mesh: self.0.mesh.clone(),
            });
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
        self.check(&issued, id, now)?;
        Ok(issued)
    }

    /// The CA's certificate, to go into chains after the leaf.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// The CA's key.
    pub fn key(&self) -> &PrivateKey {
        &self.0.key
    }

    /// What revokes this CA, in a trust bundle.
    pub fn spki_sha256(&self) -> Fingerprint {
        self.0.key.spki_sha256()
    }

    /// The mesh.
    pub fn mesh(&self) -> &MeshName {
        &self.0.mesh
    }

    /// The beginning of its validity in Unix seconds.
    pub fn not_before(&self) -> u64 {
        self.0.not_before
    }

    /// The end of its validity in Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.0.not_after
    }

    /// Looks at a new leaf as a peer will, before anybody gets it.
    fn check(&self, issued: &IssuedCertificate, id: &SpiffeId, now: u64) -> Result<(), IssueError> {
        let check = |why: String| IssueError::Check(why);
        let anchor = webpki::anchor_from_trusted_cert(&self.0.certificate)
            .map_err(|error| check(error.to_string()))?;
        let chain = [issued.der.clone()];
        for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
            verify_chain(&chain, std::slice::from_ref(&anchor), now, usage)
                .map_err(|refusal| check(refusal.to_string()))?;
        }
        let read = PeerIdentity::from_chain(&chain).map_err(|error| check(error.to_string()))?;
        let meant = PeerIdentity {
            id: id.clone(),
            serial: issued.serial,
            spki: issued.spki_sha256,
            issuer: None,
            not_before: issued.not_before,
            not_after: issued.not_after,
        };
        if read != meant {
            return Err(check("it says something else than it was to".to_owned()));
        }
        Ok(())
    }
}

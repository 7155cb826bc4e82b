//! This controller's issuing CA, and its own certificate.

use cframe_pki::{
    CertificateDer, Fingerprint,
    bundle::TrustBundle,
    identity::SpiffeId,
    issue::{IssuedCertificate, IssuingCa, LEAF_LIFETIME, VerifiedCsr},
    key::PrivateKey,
    tls::{Credentials, CredentialsError, LiveCredentials},
};
use cframe_protocol::v1::{CallError, ErrorCode};
use thiserror::Error;

use crate::{
    audit::{Act, Who},
    check::invalid,
    draft::Draft,
    mesh::Mesh,
    model::State,
    record::{self, Key},
};

/// Signs for this controller.
#[derive(Debug)]
pub struct Issuer {
    ca: IssuingCa,
    root: CertificateDer<'static>,
    pin: Fingerprint,
}

/// A CA's certificate cannot be read.
#[derive(Debug, Error)]
#[error("the CA's certificate is malformed: {0}")]
pub struct RootError(String);

impl RootError {
    pub(crate) fn new(error: &impl ToString) -> Self {
        Self(error.to_string())
    }
}

/// A signed certificate with the record that the store keeps of it.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: IssuedCertificate,
    /// Its record.
    pub record: record::Cert,
}

impl Issuer {
    /// Puts together what signing needs. `root` is the root above `ca`.
    ///
    /// # Errors
    /// If `root` is no certificate.
    pub fn new(ca: IssuingCa, root: CertificateDer<'static>) -> Result<Self, RootError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&root).map_err(|error| RootError::new(&error))?;
        let pin = Fingerprint::of_spki(parsed.public_key().raw);
        Ok(Self { ca, root, pin })
    }

    /// The CA.
    pub fn ca(&self) -> &IssuingCa {
        &self.ca
    }

    /// The root above it.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What join tokens pin: the root's public key.
    pub fn pin(&self) -> Fingerprint {
        self.pin
    }

    /// Signs a leaf of the usual lifetime for the request's key, unless that key is denied.
    ///
    /// # Errors
    /// If the key is denied or the CA cannot sign now.
    pub fn issue(
        &self,
        state: &State,
        csr: &VerifiedCsr,
        id: &SpiffeId,
        now: u64,
    ) -> Result<Issued, CallError> {
        let spki = csr.spki_sha256();
        if state.denied.values().any(|denied| denied.record.entry.spki == spki) {
            return Err(invalid(format!(
                "the public key {spki} was revoked; make a new key and a new request"
            )));
        }
        let certificate = self.ca.issue(csr, id, LEAF_LIFETIME, now).map_err(|error| {
            tracing::error!(%error, %id, "no certificate was issued");
            CallError::new(ErrorCode::Internal, format!("no certificate for {id}: {error}"))
        })?;
        let record = record::Cert {
            id: id.clone(),
            spki,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            renews: None,
        };
        Ok(Issued { certificate, record })
    }

    /// The chain that goes with a leaf: the leaf, this CA.
    pub fn chain(&self, issued: &IssuedCertificate) -> Vec<CertificateDer<'static>> {
        vec![issued.der.clone(), self.ca.certificate().clone()]
    }

    /// The same as bytes for the wire.
    pub fn wire_chain(&self, issued: &IssuedCertificate) -> Vec<Vec<u8>> {
        self.chain(issued).iter().map(|der| der.to_vec()).collect()
    }
}

impl Issued {
    /// Has the store record it.
    pub fn record(&self, draft: &mut Draft) {
        let key = Key::Cert(self.certificate.serial);
        draft.compare(key.clone(), 0);
        draft.put(key, &self.record);
    }
}

/// Verifies a signing request.
///
/// # Errors
/// If it is malformed or not signed by its own key.
pub fn verify_csr(der: &[u8]) -> Result<VerifiedCsr, CallError> {
    VerifiedCsr::from_der(der).map_err(|error| invalid(error.to_string()))
}

/// Why the controller's own certificate was not renewed.
#[derive(Debug, Error)]
pub enum RenewError {
    /// No key.
    #[error(transparent)]
    Key(#[from] cframe_pki::key::KeyError),
    /// Not signed or not recorded.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Not taken over.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Renews the controller's own certificate, with a new key: recorded first, in force for the next
/// handshake then. Answers with the new credentials, for the disk.
///
/// # Errors
/// If one of these fails; the former certificate stays in force.
pub async fn renew_own(
    mesh: &Mesh,
    issuer: &Issuer,
    live: &LiveCredentials,
) -> Result<Credentials, RenewError> {
    let key = PrivateKey::generate()?;
    let csr = verify_csr(&key.csr()?)?;
    let id = live.identity().id.clone();
    let mut act = Act::new(Who::holder(&id.role), "renewal");
    act.serial = Some(live.identity().serial);
    act.subject = act.who.to_string();
    let written = mesh.write(id.role.name().as_str(), &act, |state| {
        let mut draft = Draft::default();
        let issued = issuer.issue(state, &csr, &id, mesh.now())?;
        issued.record(&mut draft);
        Ok((draft, issued))
    });
    let written = written.await;
    mesh.settle(&act, written.as_ref().err());
    let (_, issued) = written?;
    let credentials = Credentials { chain: issuer.chain(&issued.certificate), key };
    live.replace(credentials.clone())?;
    Ok(credentials)
}

/// The serial of a chain's leaf, for the log.
pub(crate) fn serial(chain: &[Vec<u8>]) -> String {
    let leaf = chain.first().map(|der| CertificateDer::from(der.as_slice()));
    let peer = leaf.and_then(|leaf| cframe_pki::verifier::peer_identity(&[leaf]).ok());
    peer.map(|peer| peer.serial.to_string()).unwrap_or_default()
}

/// The trust bundle in the form that goes to a new participant.
pub fn bundle(state: &State) -> TrustBundle {
    state.mesh.record.trust.clone()
}

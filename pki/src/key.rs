//! ECDSA P-256 private keys.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{CertificateSigningRequestDer, Fingerprint, pem, spki::PublicKey};

/// An ECDSA P-256 private key. Clones share one key, which is zeroized when the last is dropped.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

/// Never holds key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no key could be generated: the system's random source failed")]
    Generate,
    #[error("no PEM block PRIVATE KEY (PKCS#8) found")]
    Pem,
    #[error("the private key is not an ECDSA P-256 key in PKCS#8")]
    Pkcs8,
    #[error("signing with the private key failed")]
    Sign,
}

impl PrivateKey {
    pub fn generate() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Generate)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads the first `PRIVATE KEY` block of a PEM text.
    pub fn from_pem(text: impl AsRef<[u8]>) -> Result<Self, KeyError> {
        let mut der =
            PrivatePkcs8KeyDer::from_pem_slice(text.as_ref()).map_err(|_| KeyError::Pem)?;
        let pkcs8 = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        der.zeroize();
        Self::from_pkcs8(pkcs8)
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
            .map_err(|_| KeyError::Pkcs8)?;
        let public = PublicKey::from_point(pair.public_key().as_ref()).ok_or(KeyError::Pkcs8)?;
        Ok(Self(Arc::new(Inner { pair, pkcs8, public })))
    }

    /// The key as a PEM block `PRIVATE KEY` (PKCS#8). Write it with [`crate::files`].
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.0.pkcs8)
    }

    pub fn spki_sha256(&self) -> Fingerprint {
        self.0.public.fingerprint()
    }

    /// A signing request (PKCS#10) with an empty subject and no extensions: the CA uses nothing but
    /// the public key.
    pub fn csr(&self) -> Result<CertificateSigningRequestDer<'static>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&Signer(self)).map_err(|_| KeyError::Sign)?;
        Ok(request.der().clone())
    }

    /// [`csr`](Self::csr) as a PEM block `CERTIFICATE REQUEST`.
    pub fn csr_pem(&self) -> Result<String, KeyError> {
        Ok(pem::encode("CERTIFICATE REQUEST", &self.csr()?).to_string())
    }

    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.pkcs8.to_vec()))
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.0.public
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(spki {})", self.spki_sha256())
    }
}

/// Lets rcgen sign with the key.
pub(crate) struct Signer<'a>(pub(crate) &'a PrivateKey);

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public().point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.public().algorithm()
    }
}

impl SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.0.pair.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pem() {
        let key = PrivateKey::generate().unwrap();
        let back = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(back.spki_sha256(), key.spki_sha256());
        assert_eq!(back.to_pem(), key.to_pem());
    }

    #[test]
    fn debug_shows_the_public_key_only() {
        let key = PrivateKey::generate().unwrap();
        let shown = format!("{key:?}");
        assert_eq!(shown, format!("PrivateKey(spki {})", key.spki_sha256()));
    }

    #[test]
    fn other_curves_and_other_blocks_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let error = PrivateKey::from_pem(p384.serialize_pem()).unwrap_err();
        assert_eq!(error, KeyError::Pkcs8);
        assert_eq!(PrivateKey::from_pem("no key").unwrap_err(), KeyError::Pem);
    }
}

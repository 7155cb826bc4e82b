//! Reading of certificates and signing requests.

use anyhow::{Context as _, bail};
use cframe_pki::{CertificateDer, CertificateSigningRequestDer, issue::VerifiedCsr};
use rustls::pki_types::pem::PemObject as _;

/// The certificates of a PEM text, in their order; at least one.
pub fn certificates(text: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .context("the PEM text is damaged")?;
    if certificates.is_empty() {
        bail!("there is no PEM block CERTIFICATE");
    }
    Ok(certificates)
}

/// Reads a signing request, PEM or DER, and returns it as DER.
pub fn signing_request(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    // DER starts with the tag of a SEQUENCE, which is `0` in ASCII: no PEM text does.
    let der = if content.starts_with(&[0x30]) {
        content.to_vec()
    } else {
        CertificateSigningRequestDer::from_pem_slice(content)
            .context("expected a PEM block CERTIFICATE REQUEST, or DER")?
            .to_vec()
    };
    VerifiedCsr::from_der(&der)?;
    Ok(der)
}

#[cfg(test)]
mod tests {
    use cframe_pki::{certificate_pem, key::PrivateKey};

    use super::*;

    #[test]
    fn a_request_may_be_pem_or_der() {
        let key = PrivateKey::generate().unwrap();
        let der = signing_request(key.csr_pem().unwrap().as_bytes()).unwrap();
        assert_eq!(signing_request(&der).unwrap(), der);
        assert!(signing_request(b"-----BEGIN PRIVATE KEY-----\n").is_err());
        assert!(signing_request(b"").is_err());
    }

    #[test]
    fn certificates_survive_pem() {
        for len in [1, 47, 48, 49, 700] {
            let der = vec![7; len];
            let read = certificates(&certificate_pem(&der)).unwrap();
            assert_eq!(read, [CertificateDer::from(der)]);
        }
        assert!(certificates("").unwrap_err().to_string().contains("no PEM block"));
    }
}

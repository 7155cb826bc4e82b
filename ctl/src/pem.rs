//! Certificates as text and back.

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cframe_pki::{CertificateDer, CertificateSigningRequestDer, issue::VerifiedCsr};
use rustls::pki_types::pem::PemObject as _;

/// A certificate as a PEM block (RFC 7468).
pub fn certificate(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// The certificates of a PEM text, in their order; at least one.
///
/// # Errors
/// When a block is damaged, or there is none.
pub fn certificates(text: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .context("the PEM text is damaged")?;
    if certificates.is_empty() {
        bail!("there is no PEM block CERTIFICATE");
    }
    Ok(certificates)
}

/// The signing request in a file's content, PEM or DER, as DER. It is one that a controller takes: for a
/// key on P-256, and signed by that key.
///
/// # Errors
/// When it is none.
pub fn signing_request(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    // DER begins with the tag of a SEQUENCE, which is `0` in ASCII: no PEM text does.
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
    use cframe_pki::key::PrivateKey;

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
            let read = certificates(&certificate(&der)).unwrap();
            assert_eq!(read, [CertificateDer::from(der)]);
        }
        assert!(certificates("").unwrap_err().to_string().contains("no PEM block"));
    }
}

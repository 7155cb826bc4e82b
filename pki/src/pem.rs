//! Writing PEM (RFC 7468). rustls's types read it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

pub(crate) fn chain(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| encode("CERTIFICATE", der).to_string()).collect()
}

/// One block. Zeroized on drop because it may hold a key.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // Sized in advance: a string that grows leaves copies of a key in memory.
    let mut text =
        Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn what_is_written_reads_back_without_growing() {
        for len in [0, 1, 47, 48, 49, 500] {
            let der = vec![7; len];
            let text = encode("CERTIFICATE", &der);
            let fits = body_len(len) + body_len(len) / 64 + 62;
            assert!(text.len() <= fits, "{len}");
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), der);
        }
    }

    fn body_len(len: usize) -> usize {
        len.div_ceil(3) * 4
    }
}

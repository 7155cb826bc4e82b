//! Encryption of secrets with a passphrase, for CA keys in a backup.
//!
//! A sealed text is `cfsealed1.` and the unpadded base64url of: iterations (`u32`, big-endian), salt
//! (16 bytes), nonce (12 bytes), ciphertext, tag (16 bytes). The cipher is AES-256-GCM with prefix,
//! iterations and salt as associated data. The key is PBKDF2-HMAC-SHA256 of the passphrase.

use std::num::NonZeroU32;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    pbkdf2, rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

const PREFIX: &str = "cfsealed1.";
const SALT_LEN: usize = 16;
const HEADER_LEN: usize = 4 + SALT_LEN + NONCE_LEN;

/// OWASP's recommendation for PBKDF2-HMAC-SHA256 (2023). Takes a fifth of a second.
pub const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).expect("not zero");

/// Limits the CPU time that a forged backup can cost.
const MAX_ITERATIONS: u32 = 10_000_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    #[error("not a sealed secret, or cut short: expected {PREFIX} and base64url")]
    Form,
    #[error("{0} iterations of PBKDF2 are not accepted; 1 to {MAX_ITERATIONS} are")]
    Iterations(u32),
    #[error("wrong passphrase, or the sealed secret was changed")]
    Refused,
    /// The system's random source or the cipher failed.
    #[error("the secret could not be encrypted")]
    Encrypt,
}

/// Seals a secret with [`ITERATIONS`].
pub fn seal(passphrase: &str, plaintext: &[u8]) -> Result<String, SealError> {
    seal_with(passphrase, plaintext, ITERATIONS)
}

/// Seals a secret with a number of PBKDF2 iterations, at most 10 million.
pub fn seal_with(
    passphrase: &str,
    plaintext: &[u8],
    iterations: NonZeroU32,
) -> Result<String, SealError> {
    let mut sealed = Vec::with_capacity(HEADER_LEN + plaintext.len() + AES_256_GCM.tag_len());
    sealed.extend(iterations.get().to_be_bytes());
    sealed.resize(HEADER_LEN, 0);
    rand::fill(&mut sealed[4..]).map_err(|_| SealError::Encrypt)?;
    let header = Header::read(&sealed)?;

    let key = header.key(passphrase)?;
    let mut text = Zeroizing::new(plaintext.to_vec());
    let tag = key
        .seal_in_place_separate_tag(header.nonce, Aad::from(header.associated), &mut text)
        .map_err(|_| SealError::Encrypt)?;
    sealed.extend_from_slice(&text);
    sealed.extend_from_slice(tag.as_ref());
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed)))
}

/// Decrypts a sealed text. White space around it is ignored.
pub fn open(passphrase: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let encoded = sealed.trim().strip_prefix(PREFIX).ok_or(SealError::Form)?;
    let mut bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| SealError::Form)?);
    let header = Header::read(&bytes)?;
    let key = header.key(passphrase)?;
    let plaintext = key
        .open_in_place(header.nonce, Aad::from(header.associated), &mut bytes[HEADER_LEN..])
        .map_err(|_| SealError::Refused)?;
    Ok(Zeroizing::new(plaintext.to_vec()))
}

struct Header {
    iterations: NonZeroU32,
    salt: [u8; SALT_LEN],
    nonce: Nonce,
    associated: Vec<u8>,
}

impl Header {
    fn read(sealed: &[u8]) -> Result<Self, SealError> {
        let form = |_| SealError::Form;
        let (count, rest) = sealed.split_first_chunk().ok_or(SealError::Form)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(SealError::Form)?;
        let nonce = rest.get(..NONCE_LEN).ok_or(SealError::Form)?;
        let count = u32::from_be_bytes(*count);
        let iterations = NonZeroU32::new(count)
            .filter(|count| count.get() <= MAX_ITERATIONS)
            .ok_or(SealError::Iterations(count))?;
        Ok(Self {
            iterations,
            salt: *salt,
            nonce: Nonce::try_assume_unique_for_key(nonce).map_err(form)?,
            associated: [PREFIX.as_bytes(), &sealed[..4 + SALT_LEN]].concat(),
        })
    }

    fn key(&self, passphrase: &str) -> Result<LessSafeKey, SealError> {
        if passphrase.is_empty() {
            return Err(SealError::EmptyPassphrase);
        }
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            self.iterations,
            &self.salt,
            passphrase.as_bytes(),
            key.as_mut(),
        );
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| SealError::Encrypt)?;
        Ok(LessSafeKey::new(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FEW: NonZeroU32 = NonZeroU32::new(3).unwrap();

    #[test]
    fn what_is_sealed_opens_with_the_passphrase_and_no_other() {
        let sealed = seal("correct horse", b"key").unwrap();
        assert_eq!(*open("correct horse", &format!("{sealed}\n")).unwrap(), b"key");
        assert_eq!(open("wrong horse", &sealed), Err(SealError::Refused));
        assert_eq!(open("", &sealed), Err(SealError::EmptyPassphrase));
        assert_eq!(seal("", b"key"), Err(SealError::EmptyPassphrase));
    }

    #[test]
    fn every_bit_is_authenticated() {
        let sealed = seal_with("pass", b"a secret", FEW).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&sealed[PREFIX.len()..]).unwrap();
        // A changed upper byte of the iteration count would make the test slow.
        for at in 3..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(changed));
            assert_eq!(open("pass", &text), Err(SealError::Refused), "byte {at}");
        }
    }

    #[test]
    fn iterations_are_limited_before_the_key_is_derived() {
        for count in [0, MAX_ITERATIONS + 1, u32::MAX] {
            let bytes = [&count.to_be_bytes()[..], &[0; 64]].concat();
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
            assert_eq!(open("pass", &text), Err(SealError::Iterations(count)));
        }
    }

    #[test]
    fn a_secret_sealed_twice_gives_two_texts() {
        assert_ne!(seal_with("p", b"k", FEW).unwrap(), seal_with("p", b"k", FEW).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_secret_comes_back(secret: Vec<u8>, passphrase in ".{1,40}") {
            let sealed = seal_with(&passphrase, &secret, FEW).unwrap();
            prop_assert_eq!(&*open(&passphrase, &sealed).unwrap(), &secret);
        }

        #[test]
        fn garbage_is_refused(garbage in "(cfsealed1\\.)?AAAA[A-Za-z0-9_-]{0,90}") {
            prop_assert!(open("pass", &garbage).is_err());
        }
    }
}

//! Join tokens, which an operator carries from `cfctl` to a new edge. A token works once.
//!
//! A token is `cfj1.` and the unpadded base64url of: the number of addresses (1 byte), each address
//! as its length (1 byte) and `HOST:PORT`, the SHA-256 of the root's SPKI (32), the token's id (16),
//! the secret (16), and the first 4 bytes of the SHA-256 of all that, which detect a token that was
//! damaged in copying.

mod address;

use std::{fmt, str::FromStr};

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    Fingerprint,
    digest::{fixed_bytes, sha256},
};

pub use address::AddressError;

const PREFIX: &str = "cfj1.";
const SECRET_LEN: usize = 16;
const CHECK_LEN: usize = 4;

pub const MAX_ADDRESSES: usize = 8;

/// Bytes of text.
pub const MAX_LEN: usize = 3072;

#[derive(Clone)]
pub struct JoinToken {
    /// The controllers' enrolment addresses, `HOST:PORT`: 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<String>,
    /// The public key of the mesh's root CA. The secret is only sent to a controller whose chain
    /// leads to it.
    pub pin: Fingerprint,
    pub id: TokenId,
    pub secret: TokenSecret,
}

/// 128 random bits.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret([u8; SECRET_LEN]);

fixed_bytes!(
    /// The name of a token; not secret.
    TokenId, 16, "token id"
);

fixed_bytes!(
    /// SHA-256 of a token's secret, which the store has in its place. A plain hash is enough for 128
    /// random bits.
    TokenHash, 32, "token hash"
);

/// Never holds the text, which may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a join token: it doesn't start with {PREFIX}")]
    Prefix,
    #[error("not a join token: it has {0} characters, more than {MAX_LEN}")]
    Long(usize),
    /// It is not base64url, or its check value is wrong.
    #[error("the join token was damaged in copying; copy all of it again")]
    Damaged,
    #[error("the join token is cut short; copy all of it")]
    Short,
    #[error("the join token has something after its end; copy it alone")]
    Trailing,
    #[error("a join token has 1 to {MAX_ADDRESSES} controller addresses, not {0}")]
    Addresses(usize),
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl JoinToken {
    pub fn new(
        addresses: Vec<String>,
        pin: Fingerprint,
        id: TokenId,
        secret: TokenSecret,
    ) -> Result<Self, TokenError> {
        if !(1..=MAX_ADDRESSES).contains(&addresses.len()) {
            return Err(TokenError::Addresses(addresses.len()));
        }
        addresses.iter().try_for_each(|text| address::check(text))?;
        Ok(Self { addresses, pin, id, secret })
    }

    /// The token's text, with the secret: show it once, never log it.
    pub fn expose(&self) -> Zeroizing<String> {
        let addresses: usize = self.addresses.iter().map(|text| 1 + text.len()).sum();
        let fixed = 32 + 16 + SECRET_LEN + CHECK_LEN;
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + addresses + fixed));
        // `new` has limited both lengths to one byte.
        bytes.push(self.addresses.len().to_le_bytes()[0]);
        for text in &self.addresses {
            bytes.push(text.len().to_le_bytes()[0]);
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(self.pin.as_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.secret.0);
        let check = sha256(&bytes);
        bytes.extend_from_slice(&check[..CHECK_LEN]);

        let mut text =
            Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len() * 4 / 3 + 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// White space around the token is ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(TokenError::Long(text.len()));
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Damaged)?;
        let bytes = Zeroizing::new(bytes);

        let mut reader = Reader(&bytes);
        let count = usize::from(reader.byte()?);
        if !(1..=MAX_ADDRESSES).contains(&count) {
            return Err(TokenError::Addresses(count));
        }
        let addresses = (0..count).map(|_| reader.address()).collect::<Result<_, _>>()?;
        let pin = Fingerprint::from_bytes(reader.array()?);
        let id = TokenId::from_bytes(reader.array()?);
        let secret = TokenSecret(reader.array()?);
        let signed = bytes.len() - reader.0.len();
        let check: [u8; CHECK_LEN] = reader.array()?;
        if !reader.0.is_empty() {
            return Err(TokenError::Trailing);
        }
        if sha256(&bytes[..signed])[..CHECK_LEN] != check {
            return Err(TokenError::Damaged);
        }
        Self::new(addresses, pin, id, secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("addresses", &self.addresses)
            .field("pin", &self.pin)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl TokenSecret {
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; SECRET_LEN];
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub const fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        Self(bytes)
    }

    /// Send it only over a connection of [`enroll_client`](crate::tls::enroll_client).
    pub const fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(…)")
    }
}

impl TokenId {
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl TokenHash {
    pub fn of(secret: &TokenSecret) -> Self {
        Self(sha256(&secret.0))
    }

    /// Whether this is the hash of `secret`, in constant time.
    pub fn matches(&self, secret: &TokenSecret) -> bool {
        verify_slices_are_equal(&self.0, &sha256(&secret.0)).is_ok()
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, TokenError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(TokenError::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn address(&mut self) -> Result<String, TokenError> {
        let len = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(len).ok_or(TokenError::Short)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| TokenError::Damaged)
    }
}

#[cfg(test)]
mod tests;

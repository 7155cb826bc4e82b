//! Join tokens: what an operator carries from `cfctl` to a new edge, once.
//!
//! A token is `cfj1.` and the base64url, unpadded, of: the number of addresses (1 byte), each address
//! as its length (1 byte) and `HOST:PORT`, the SHA-256 of the root's SPKI (32), the token's id (16),
//! the secret (16), and the first 4 bytes of the SHA-256 of all that, which tell a token that was
//! damaged in copying from one that is wrong.

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

/// The most addresses in a token.
pub const MAX_ADDRESSES: usize = 8;

/// The longest text of a token that is looked at, in bytes.
pub const MAX_LEN: usize = 3072;

/// What a new edge needs to find the controllers, to know them, and to be let in.
#[derive(Clone)]
pub struct JoinToken {
    /// The controllers' enrolment addresses, `HOST:PORT`; at least one.
    pub addresses: Vec<String>,
    /// The public key of the mesh's root CA: nothing is sent before the controller has shown a
    /// chain to it.
    pub pin: Fingerprint,
    /// Names the token to people and in the store; no secret.
    pub id: TokenId,
    /// Lets in whoever has it.
    pub secret: TokenSecret,
}

/// 128 random bits that only the token holds.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret([u8; SECRET_LEN]);

fixed_bytes!(
    /// Names a token; no secret.
    TokenId, 16, "token id"
);

fixed_bytes!(
    /// SHA-256 of a token's secret: what the store keeps. A plain hash is enough for 128 random bits.
    TokenHash, 32, "token hash"
);

/// A text that is not a join token. Never holds the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins otherwise.
    #[error("not a join token: it doesn't begin with {PREFIX}")]
    Prefix,
    /// Longer than any token.
    #[error("not a join token: it has {0} characters, more than {MAX_LEN}")]
    Long(usize),
    /// A character that isn't in base64url, or a wrong check value.
    #[error("the join token was damaged in copying; copy all of it again")]
    Damaged,
    /// It ends early.
    #[error("the join token is cut short; copy all of it")]
    Short,
    /// Something follows its end.
    #[error("the join token has something after its end; copy it alone")]
    Trailing,
    /// None or too many addresses.
    #[error("a join token has 1 to {MAX_ADDRESSES} controller addresses, not {0}")]
    Addresses(usize),
    /// An address that is not HOST:PORT.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl JoinToken {
    /// # Errors
    /// When there are no addresses, too many, or one that is not `HOST:PORT`.
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

    /// The text to hand to the edge. Holds the secret: show it once, log it never.
    pub fn expose(&self) -> Zeroizing<String> {
        let addresses: usize = self.addresses.iter().map(|text| 1 + text.len()).sum();
        let fixed = 32 + 16 + SECRET_LEN + CHECK_LEN;
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + addresses + fixed));
        // `new` has bounded both lengths.
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

    /// Spaces around the token are let pass.
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
    /// # Errors
    /// When the system's random source fails.
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; SECRET_LEN];
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Takes the secret as it came over an enrolment connection.
    pub const fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        Self(bytes)
    }

    /// The secret, to be sent over an enrolment connection whose pin has matched.
    pub const fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// SHA-256 of the secret; [`TokenHash::of`] has it as its type.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.0)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(…)")
    }
}

impl TokenId {
    /// # Errors
    /// When the system's random source fails.
    pub fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl TokenHash {
    /// The hash of a secret.
    pub fn of(secret: &TokenSecret) -> Self {
        Self(secret.hash())
    }

    /// Whether this is the secret's hash, in constant time.
    pub fn matches(&self, secret: &TokenSecret) -> bool {
        verify_slices_are_equal(&self.0, &secret.hash()).is_ok()
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

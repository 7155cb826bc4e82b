//! Fixed-size byte strings, written as hex.

use aws_lc_rs::digest::{SHA256, digest};

use crate::excerpt::excerpt;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {what}: expected {digits} lower-case hex digits")]
pub struct ParseHexError {
    what: &'static str,
    digits: usize,
    value: String,
}

/// Defines a newtype over `[u8; N]`: hex in text and in human-readable serde formats, `N` bytes in
/// others.
macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::digest::ParseHexError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::digest::parse_hex(text, $what).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

fixed_bytes!(
    /// SHA-256 of a DER-encoded SubjectPublicKeyInfo (RFC 5280 §4.1), the name of a public key.
    Fingerprint, 32, "SHA-256 fingerprint"
);

fixed_bytes!(
    /// The serial number of a certificate: 128 random bits, big-endian. A shorter DER integer is
    /// padded on the left.
    Serial, 16, "certificate serial"
);

impl Fingerprint {
    pub fn of_spki(der: &[u8]) -> Self {
        Self(sha256(der))
    }
}

impl Serial {
    /// Never zero (RFC 5280 §4.1.2.2).
    pub(crate) fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; 16];
        while bytes == [0; 16] {
            aws_lc_rs::rand::fill(&mut bytes)?;
        }
        Ok(Self(bytes))
    }

    /// From a DER integer's content octets; `None` if it is negative or over 128 bits.
    pub(crate) fn from_der_integer(content: &[u8]) -> Option<Self> {
        let (first, _) = content.split_first()?;
        if first & 0x80 != 0 {
            return None;
        }
        let start = content.iter().position(|byte| *byte != 0).unwrap_or(content.len());
        let magnitude = &content[start..];
        let mut bytes = [0; 16];
        bytes.get_mut(16usize.checked_sub(magnitude.len())?..)?.copy_from_slice(magnitude);
        Some(Self(bytes))
    }
}

pub(crate) use fixed_bytes;

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

pub(crate) fn parse_hex<const N: usize>(
    text: &str,
    what: &'static str,
) -> Result<[u8; N], ParseHexError> {
    let error = || ParseHexError { what, digits: 2 * N, value: excerpt(text) };
    if text.len() != 2 * N {
        return Err(error());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0])
            .zip(nibble(pair[1]))
            .map(|(high, low)| high << 4 | low)
            .ok_or_else(error)?;
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_hex_in_json_and_32_bytes_in_bincode() {
        let print = Fingerprint::of_spki(b"key");
        let json = serde_json::to_string(&print).unwrap();
        assert_eq!(json, format!("\"{print}\""));
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), print);

        let config = bincode::config::standard();
        let bytes = bincode::serde::encode_to_vec(print, config).unwrap();
        assert_eq!(bytes, print.as_bytes());
        let back = bincode::serde::decode_from_slice::<Fingerprint, _>(&bytes, config).unwrap();
        assert_eq!(back, (print, 32));
    }

    #[test]
    fn hex_has_one_spelling() {
        let print = Fingerprint::of_spki(b"key").to_string();
        assert_eq!(print.parse::<Fingerprint>().unwrap().to_string(), print);
        for wrong in [
            print.to_uppercase(),
            print[1..].to_owned(),
            format!("{print}0"),
            format!("+{}", &print[1..]),
            String::new(),
        ] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_serial_is_the_number_and_not_its_encoding() {
        let short = Serial::from_der_integer(&[0x2a]).unwrap();
        assert_eq!(Serial::from_der_integer(&[0, 0x2a]), Some(short));
        assert_eq!(short.to_string(), format!("{:0>32}", "2a"));
        let high = [&[0][..], &[0xff; 16]].concat();
        assert_eq!(Serial::from_der_integer(&high), Some(Serial([0xff; 16])));
        assert_eq!(Serial::from_der_integer(&[0xff]), None, "negative");
        assert_eq!(Serial::from_der_integer(&[1; 17]), None, "too long");
        assert_eq!(Serial::from_der_integer(&[]), None);
    }
}

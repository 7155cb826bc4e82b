//! Keyed checksums in place of AEAD keys.

use bytes::BytesMut;
use quinn_proto::{
    Side,
    crypto::{CryptoError, HeaderKey, KeyPair, Keys, PacketKey},
};

const TAG: usize = 16;
/// The limits of AES-128-GCM (RFC 9001 §6.6), so that keys are updated as with TLS.
const CONFIDENTIALITY_LIMIT: u64 = 1 << 23;
const INTEGRITY_LIMIT: u64 = 1 << 52;

/// A secret that only both sides know.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Secret(u64);

impl Secret {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(1).and(bytes)
    }

    pub(super) fn and(self, bytes: &[u8]) -> Self {
        Self(mix(self.0, bytes))
    }

    /// The secret of the next phase.
    pub(super) fn next(self) -> Self {
        self.and(b"next")
    }
}

/// Header protection that changes nothing.
struct NoHeaderProtection;

pub(super) fn keys(secret: Secret, side: Side) -> Keys {
    let (client, server) = (secret.and(b"client"), secret.and(b"server"));
    let (local, remote) = if side.is_client() { (client, server) } else { (server, client) };
    Keys {
        header: KeyPair {
            local: Box::new(NoHeaderProtection),
            remote: Box::new(NoHeaderProtection),
        },
        packet: KeyPair { local: Box::new(Sum(local)), remote: Box::new(Sum(remote)) },
    }
}

impl HeaderKey for NoHeaderProtection {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        16
    }
}

struct Sum(Secret);

impl Sum {
    fn tag(&self, packet: u64, header: &[u8], payload: &[u8]) -> [u8; TAG] {
        checksum(self.0, &[&packet.to_be_bytes(), header, payload])
    }
}

impl PacketKey for Sum {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (body, tag) = buf.split_at_mut(buf.len() - TAG);
        let (header, payload) = body.split_at(header_len);
        tag.copy_from_slice(&self.tag(packet, header, payload));
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let (plain, tag) = payload.split_last_chunk::<TAG>().ok_or(CryptoError)?;
        if *tag != self.tag(packet, header, plain) {
            return Err(CryptoError);
        }
        let len = plain.len();
        payload.truncate(len);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    fn confidentiality_limit(&self) -> u64 {
        CONFIDENTIALITY_LIMIT
    }

    fn integrity_limit(&self) -> u64 {
        INTEGRITY_LIMIT
    }
}

pub(super) fn checksum(secret: Secret, parts: &[&[u8]]) -> [u8; TAG] {
    let sum = parts.iter().fold(secret.0, |sum, part| mix(sum, part));
    let mut tag = [0; TAG];
    tag[..8].copy_from_slice(&sum.to_be_bytes());
    tag[8..].copy_from_slice(&sum.rotate_left(32).wrapping_mul(FACTOR).to_be_bytes());
    tag
}

const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Not cryptographic: fast, and different for any change that a wire makes.
fn mix(mut sum: u64, bytes: &[u8]) -> u64 {
    sum = (sum ^ bytes.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        sum = (sum.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    for byte in rest {
        sum = (sum.rotate_left(23) ^ u64::from(*byte)).wrapping_mul(FACTOR);
    }
    sum ^ (sum >> 29)
}

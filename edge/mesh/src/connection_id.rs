//! Connection ids: 4 random bytes and a tag of 4 bytes, by which an endpoint recognizes its own
//! ids, also after a restart.
//!
//! quinn-proto's `HashedConnectionIdGenerator` does the same, but with the operating system's
//! random numbers, so no run of the simulation could be repeated.

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{RngExt, rngs::StdRng};

const NONCE: usize = 4;
const TAG: usize = 4;

/// Generates the ids of one endpoint.
pub(crate) struct KeyedIds {
    key: hmac::Key,
    rng: StdRng,
}

impl KeyedIds {
    /// `key` must stay the same after a restart; `rng` must not.
    pub(crate) fn new(key: u64, rng: StdRng) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key.to_le_bytes()), rng }
    }

    fn tag(&self, nonce: &[u8]) -> [u8; TAG] {
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hmac::sign(&self.key, nonce).as_ref()[..TAG]);
        tag
    }
}

impl ConnectionIdGenerator for KeyedIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce: [u8; NONCE] = self.rng.random();
        let mut id = [0; NONCE + TAG];
        id[..NONCE].copy_from_slice(&nonce);
        id[NONCE..].copy_from_slice(&self.tag(&nonce));
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.split_at_checked(NONCE) {
            Some((nonce, tag)) if self.tag(nonce) == tag => Ok(()),
            Some(_) | None => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        NONCE + TAG
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn keyed(key: u64, seed: u8) -> KeyedIds {
        KeyedIds::new(key, StdRng::from_seed([seed; 32]))
    }

    #[test]
    fn a_restarted_endpoint_recognizes_its_own_ids_and_no_others() {
        let id = keyed(1, 1).generate_cid();
        assert!(keyed(1, 2).validate(&id).is_ok());
        assert!(keyed(2, 1).validate(&id).is_err());
        assert!(keyed(1, 2).validate(&ConnectionId::new(&id[..3])).is_err());
    }

    #[test]
    fn a_seed_gives_the_same_ids_again() {
        let ids = |seed| {
            let mut generator = keyed(1, seed);
            [generator.generate_cid(), generator.generate_cid()]
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        assert_ne!(ids(1)[0], ids(1)[1]);
    }
}

//! Trust bundle and deny-list of a mesh.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    CertificateDer, Fingerprint, Serial,
    identity::{PeerIdentity, SpiffeId},
};

/// The root CAs of a mesh, several while a root is rotated, and the revoked issuing CAs.
///
/// In JSON a root is the base64 of its DER and a fingerprint is hex; in binary formats both are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    #[serde(with = "certificates")]
    pub roots: Vec<CertificateDer<'static>>,
    /// Public keys that must not be in any chain.
    pub revoked_issuers: BTreeSet<Fingerprint>,
}

/// A revoked certificate.
///
/// It is recognised by identity and serial, or by public key. A hash of the certificate would not
/// do: an ECDSA signature has a second valid encoding, and so has the certificate (CVE-2026-25793).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DenyEntry {
    pub id: SpiffeId,
    pub serial: Serial,
    pub spki: Fingerprint,
    /// The certificate's `notAfter` in Unix seconds. Later the entry can be dropped.
    pub expires: u64,
}

/// A set of [`DenyEntry`]s. In serde it is a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<DenyEntry>", into = "Vec<DenyEntry>")]
pub struct DenyList {
    serials: BTreeMap<(SpiffeId, Serial, Fingerprint), u64>,
    keys: BTreeSet<Fingerprint>,
}

impl From<&PeerIdentity> for DenyEntry {
    fn from(peer: &PeerIdentity) -> Self {
        Self { id: peer.id.clone(), serial: peer.serial, spki: peer.spki, expires: peer.not_after }
    }
}

impl DenyList {
    /// Adds an entry. Of two that differ only in `expires`, the later one stays.
    pub fn insert(&mut self, entry: DenyEntry) {
        self.keys.insert(entry.spki);
        let expires = self.serials.entry((entry.id, entry.serial, entry.spki)).or_default();
        *expires = entry.expires.max(*expires);
    }

    /// Whether a certificate with this identity and serial, or with this public key, is denied.
    pub fn denies(&self, id: &SpiffeId, serial: Serial, spki: Fingerprint) -> bool {
        let any_key = (id.clone(), serial, Fingerprint::from_bytes([0; 32]))
            ..=(id.clone(), serial, Fingerprint::from_bytes([0xff; 32]));
        self.denies_key(spki) || self.serials.range(any_key).next().is_some()
    }

    /// Whether this public key is denied in any certificate. No certificate must be issued for it.
    pub fn denies_key(&self, spki: Fingerprint) -> bool {
        self.keys.contains(&spki)
    }

    /// Drops the entries whose certificates expired more than an hour before `now` (Unix seconds). The
    /// hour is for clocks that are behind.
    pub fn prune(&mut self, now: u64) {
        self.serials.retain(|_, expires| expires.saturating_add(3600) >= now);
        self.keys = self.serials.keys().map(|(_, _, spki)| *spki).collect();
    }

    /// The entries, ordered by identity.
    pub fn iter(&self) -> impl Iterator<Item = DenyEntry> + '_ {
        self.serials.iter().map(|((id, serial, spki), expires)| DenyEntry {
            id: id.clone(),
            serial: *serial,
            spki: *spki,
            expires: *expires,
        })
    }

    pub fn len(&self) -> usize {
        self.serials.len()
    }

    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }
}

impl Extend<DenyEntry> for DenyList {
    fn extend<I: IntoIterator<Item = DenyEntry>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.insert(entry));
    }
}

impl FromIterator<DenyEntry> for DenyList {
    fn from_iter<I: IntoIterator<Item = DenyEntry>>(entries: I) -> Self {
        let mut list = Self::default();
        list.extend(entries);
        list
    }
}

impl From<Vec<DenyEntry>> for DenyList {
    fn from(entries: Vec<DenyEntry>) -> Self {
        entries.into_iter().collect()
    }
}

impl From<DenyList> for Vec<DenyEntry> {
    fn from(list: DenyList) -> Self {
        list.iter().collect()
    }
}

/// DER certificates in serde: base64 in human-readable formats, bytes in others.
mod certificates {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::CertificateDer;

    pub(super) fn serialize<S: Serializer>(
        certificates: &[CertificateDer<'_>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_seq(certificates.iter().map(|der| STANDARD.encode(der)))
        } else {
            serializer.collect_seq(certificates.iter().map(AsRef::<[u8]>::as_ref))
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<CertificateDer<'static>>, D::Error> {
        let ders = if deserializer.is_human_readable() {
            let texts = Vec::<String>::deserialize(deserializer)?;
            let ders: Result<_, _> = texts.iter().map(|text| STANDARD.decode(text)).collect();
            ders.map_err(D::Error::custom)?
        } else {
            Vec::<Vec<u8>>::deserialize(deserializer)?
        };
        Ok(ders.into_iter().map(CertificateDer::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, serial: u8, key: &[u8], expires: u64) -> DenyEntry {
        DenyEntry {
            id: format!("spiffe://m/ns/prod/edge/{name}").parse().unwrap(),
            serial: Serial::from_bytes([serial; 16]),
            spki: Fingerprint::of_spki(key),
            expires,
        }
    }

    #[test]
    fn identity_with_serial_or_the_key_alone_is_denied() {
        let denied = entry("a", 1, b"k1", 10);
        let list: DenyList = [denied.clone()].into_iter().collect();
        let (other, fresh) = (entry("b", 2, b"k2", 0), Fingerprint::of_spki(b"fresh"));
        assert!(list.denies(&denied.id, denied.serial, fresh), "same serial, another key");
        assert!(list.denies(&other.id, other.serial, denied.spki), "another's name, same key");
        assert!(!list.denies(&denied.id, other.serial, fresh), "a new certificate of the name");
        assert!(!list.denies(&other.id, denied.serial, fresh), "another's certificate");
    }

    #[test]
    fn pruning_drops_expired_entries_and_keeps_keys_that_others_still_deny() {
        let mut list: DenyList =
            [entry("a", 1, b"k", 10), entry("a", 2, b"k", 20_000), entry("b", 3, b"old", 10)]
                .into_iter()
                .collect();
        list.prune(10_000);
        assert_eq!(list.len(), 1);
        assert!(list.denies_key(Fingerprint::of_spki(b"k")));
        assert!(!list.denies_key(Fingerprint::of_spki(b"old")));
    }

    #[test]
    fn inserting_twice_keeps_the_later_expiry() {
        let mut list = DenyList::default();
        for expires in [5, 9, 7] {
            list.insert(entry("a", 1, b"k", expires));
        }
        assert_eq!(list.iter().collect::<Vec<_>>(), [entry("a", 1, b"k", 9)]);
    }

    #[test]
    fn bundle_and_list_survive_json_and_bincode() {
        let bundle = TrustBundle {
            roots: vec![CertificateDer::from(vec![0x30, 0xff, 0])],
            revoked_issuers: [Fingerprint::of_spki(b"ca")].into(),
        };
        let list: DenyList = [entry("a", 1, b"k", 9), entry("b", 2, b"l", 9)].into_iter().collect();
        let both = (bundle, list);

        let json = serde_json::to_string(&both).unwrap();
        assert!(json.contains(r#""roots":["MP8A"]"#), "{json}");
        assert_eq!(serde_json::from_str::<(TrustBundle, DenyList)>(&json).unwrap(), both);

        let config = bincode::config::standard().with_limit::<4096>();
        let bytes = bincode::serde::encode_to_vec(&both, config).unwrap();
        let (back, used) =
            bincode::serde::decode_from_slice::<(TrustBundle, DenyList), _>(&bytes, config)
                .unwrap();
        assert_eq!((back, used), (both, bytes.len()));
    }
}

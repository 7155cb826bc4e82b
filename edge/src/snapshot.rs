//! The last desired state on disk, from which an edge starts without a controller.
//!
//! One line `cframe-snapshot <format> <length> <sha-256 of the body>`, then the body: JSON. The file is
//! written under another name, synced and renamed, so that a complete one always exists.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use cframe_pki::{
    bundle::DenyList,
    files::{self, FileError},
    identity::SpiffeId,
};
use cframe_protocol::v1::Desired;
use serde::{Deserialize, Serialize};

/// The name in the data directory.
pub const FILE: &str = "snapshot";

const MAGIC: &str = "cframe-snapshot";
const FORMAT: u32 = 1;

/// In bytes; 100,000 prefixes take about 5 MB.
const MAX_LEN: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The edge that the state is for: another must not start from it.
    pub id: SpiffeId,
    /// In Unix seconds.
    pub saved: u64,
    pub desired: Arc<Desired>,
    /// Denials of earlier epochs of the controllers' store, which the state may lack.
    #[serde(default)]
    pub denied: DenyList,
}

/// Why a snapshot cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Write(#[from] FileError),
    #[error("{} is not a snapshot", .0.display())]
    Header(PathBuf),
    /// A later version of this program has written it.
    #[error("{} has format {found}; this program reads {FORMAT}", path.display())]
    Format { path: PathBuf, found: u32 },
    /// It ends early, goes on after its end, or bits have changed.
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
}

/// Saves a snapshot, replacing an older one. After an error the older one is still there.
pub fn save(path: &Path, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    Ok(files::replace_secret(path, &encode(snapshot))?)
}

/// Loads a snapshot; `None` if there is no file.
pub fn load(path: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    let read = |error| SnapshotError::Read(path.to_owned(), error);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LEN).read_to_end(&mut bytes).map_err(read)?;
    decode(path, &bytes).map(Some)
}

fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let body = serde_json::to_vec(snapshot).expect("names and prefixes are JSON keys and values");
    let mut bytes = format!("{MAGIC} {FORMAT} {} {}\n", body.len(), checksum(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    let header = || SnapshotError::Header(path.to_owned());
    let damaged = |what: String| SnapshotError::Damaged { path: path.to_owned(), what };
    let end = bytes.iter().take(200).position(|byte| *byte == b'\n').ok_or_else(header)?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| header())?;
    let body = &bytes[end + 1..];

    let mut words = line.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(header());
    }
    let found: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(header)?;
    if found != FORMAT {
        return Err(SnapshotError::Format { path: path.to_owned(), found });
    }
    let len: usize = words.next().and_then(|word| word.parse().ok()).ok_or_else(header)?;
    if body.len() != len {
        return Err(damaged(format!("it has {} bytes instead of {len}", body.len())));
    }
    if words.next() != Some(checksum(body).as_str()) || words.next().is_some() {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))
}

fn checksum(body: &[u8]) -> String {
    digest(&SHA256, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cframe_protocol::v1::Version;

    fn denial() -> cframe_pki::bundle::DenyEntry {
        cframe_pki::bundle::DenyEntry {
            id: "spiffe://mesh.example/ns/prod/edge/stolen".parse().unwrap(),
            serial: cframe_pki::Serial::from_bytes([10; 16]),
            spki: cframe_pki::Fingerprint::from_bytes([7; 32]),
            expires: 1_800_000_000,
        }
    }

    fn snapshot() -> Snapshot {
        let mut desired = Desired {
            version: Version { epoch: 1_763_000_000_000, mesh: 4, namespace: 17 },
            ..Desired::default()
        };
        let state = cframe_protocol::v1::EdgeState {
            endpoints: vec!["203.0.113.7:58423".parse().unwrap()],
            joined: true,
        };
        desired.edges.insert("aws-hk".parse().unwrap(), state);
        for net in ["172.30.0.0/16", "fd00:30::/64"] {
            desired.prefixes.insert(net.parse().unwrap(), "aws-hk".parse().unwrap());
        }
        Snapshot {
            id: "spiffe://mesh.example/ns/prod/edge/idc".parse().unwrap(),
            saved: 1_763_000_100,
            desired: Arc::new(desired),
            denied: [denial()].into_iter().collect(),
        }
    }

    fn path() -> &'static Path {
        Path::new("snapshot")
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(load(&path).unwrap(), None);
        save(&path, &snapshot()).unwrap();
        assert_eq!(load(&path).unwrap(), Some(snapshot()));
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file stays");
    }

    #[test]
    fn a_snapshot_cut_anywhere_is_refused() {
        let bytes = encode(&snapshot());
        for len in 0..bytes.len() {
            assert!(decode(path(), &bytes[..len]).is_err(), "{len} of {}", bytes.len());
        }
        assert!(decode(path(), &[&bytes[..], b"\n"].concat()).is_err(), "one byte more");
    }

    #[test]
    fn a_snapshot_with_any_bit_flipped_is_refused() {
        let bytes = encode(&snapshot());
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[index] ^= 1 << bit;
                assert!(decode(path(), &flipped).is_err(), "bit {bit} of byte {index}");
            }
        }
    }

    #[test]
    fn a_later_format_is_named() {
        let text = String::from_utf8(encode(&snapshot())).unwrap();
        let later = text.replacen("cframe-snapshot 1 ", "cframe-snapshot 2 ", 1);
        let error = decode(path(), later.as_bytes()).unwrap_err();
        assert!(matches!(error, SnapshotError::Format { found: 2, .. }), "{error}");
    }

    /// Format 1 as it was first written. This must load in every later version.
    #[test]
    fn a_snapshot_of_the_first_release_loads() {
        let body = r#"{"id":"spiffe://m.example/ns/prod/edge/idc","saved":7,"desired":{"version":{"epoch":1,"mesh":2,"namespace":3},"settings":{"tun_mtu":1400,"congestion":"Transparent"},"trust":{"roots":[],"revoked_issuers":[]},"denied":[],"controllers":["c.example:58422"],"edges":{"idc":{"endpoints":[]}},"prefixes":{"10.60.6.0/24":"idc"}}}"#;
        let text =
            format!("cframe-snapshot 1 {} {}\n{body}", body.len(), checksum(body.as_bytes()));
        let loaded = decode(path(), text.as_bytes()).unwrap();
        assert_eq!(loaded.desired.version.to_string(), "1.2.3");
        assert_eq!(loaded.desired.prefixes.len(), 1);
    }
}

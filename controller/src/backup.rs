//! The logical dump of a store, and the store of a dump.
//!
//! A dump is text, one JSON value per line: a header, the entries as they are in the store, and an end that
//! counts them and has their SHA-256, so that half a file is no backup. With a passphrase the CA's keys
//! and the controller's go before the end, sealed; without one they are not in it.
//!
//! A restore makes a new store: a later epoch, so that edges take its state although its revisions are
//! older; no join tokens, for those of the dump may have been used since. What was denied stays denied.
//! What was denied after the dump was made is not in it: revoke it again.

use cframe_pki::{Fingerprint, seal};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    model::{LoadError, State},
    record::{self, Key, ROOT, Record},
    store::{CommitError, Op, ReadError, Store, Txn, View},
};

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Header(Header),
    Entry { key: String, value: serde_json::Value },
    Sealed { file: String, sealed: String },
    End { entries: usize, sha256: Fingerprint },
}

/// What a dump says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The layout.
    pub format: u32,
    /// The mesh.
    pub mesh: String,
    /// The store's epoch.
    pub epoch: u64,
    /// The store's revision.
    pub revision: u64,
    /// When the dump was made, in Unix seconds.
    pub made: u64,
}

/// A dump that was read.
#[derive(Debug)]
pub struct Dump {
    /// What it says of itself.
    pub header: Header,
    /// Key and value.
    pub entries: Vec<(String, Vec<u8>)>,
    /// File name and sealed content.
    pub sealed: Vec<(String, String)>,
}

/// Why there is no dump, or no store of one.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is in the store, or would be, cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The new store did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// An entry is not JSON.
    #[error("the value of {0} is not JSON: {1}")]
    Value(String, serde_json::Error),
    /// A line of the dump is not one.
    #[error("line {0} of the backup is damaged: {1}")]
    Line(usize, String),
    /// The dump ends early or was changed.
    #[error("the backup is incomplete or was changed: {0}")]
    Torn(&'static str),
    /// A later program made it.
    #[error("the backup has format {0}, and this program knows {FORMAT}")]
    Format(u32),
    /// The keys cannot be sealed or opened.
    #[error(transparent)]
    Seal(#[from] seal::SealError),
    /// The new store is not empty.
    #[error("the store is not empty; restore into a new data directory")]
    NotEmpty,
}

/// Everything in a store, as of one revision. No keys are in it; [`add_keys`] adds them.
///
/// # Errors
/// If the store cannot be read or holds what is not JSON.
pub async fn dump(store: &dyn Store, now: u64) -> Result<Vec<u8>, BackupError> {
    let view = store.list(ROOT).await?;
    let state = State::load(&view)?;
    let header = Header {
        format: FORMAT,
        mesh: state.mesh.record.name.to_string(),
        epoch: state.mesh.record.epoch,
        revision: view.revision,
        made: now,
    };
    let mut out = Vec::new();
    line(&mut out, &Line::Header(header));
    for entry in &view.entries {
        let value = serde_json::from_slice(&entry.value)
            .map_err(|error| BackupError::Value(entry.key.clone(), error))?;
        line(&mut out, &Line::Entry { key: entry.key.clone(), value });
    }
    end(&mut out, view.entries.len());
    Ok(out)
}

/// Adds files, sealed with a passphrase, to a dump.
///
/// # Errors
/// If the passphrase is empty, or the dump is not whole.
pub fn add_keys(
    dump: &[u8],
    passphrase: &str,
    files: &[(String, zeroize::Zeroizing<Vec<u8>>)],
) -> Result<Vec<u8>, BackupError> {
    let entries = parse(dump)?.entries.len();
    let body = dump.len() - last_line(dump).len();
    let mut out = dump[..body].to_vec();
    for (file, content) in files {
        let sealed = seal::seal(passphrase, content)?;
        line(&mut out, &Line::Sealed { file: file.clone(), sealed });
    }
    end(&mut out, entries);
    Ok(out)
}

/// Reads a dump, whole or not at all.
///
/// # Errors
/// If anything in it is missing, damaged or of a later format.
pub fn parse(dump: &[u8]) -> Result<Dump, BackupError> {
    let mut header = None;
    let (mut entries, mut sealed) = (Vec::new(), Vec::new());
    let mut ended = None;
    let mut read = 0;
    for (number, text) in dump.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if ended.is_some() {
            return Err(BackupError::Torn("something follows its end"));
        }
        let damaged = |error: serde_json::Error| BackupError::Line(number + 1, error.to_string());
        match serde_json::from_slice(text).map_err(damaged)? {
            Line::Header(first) if number == 0 => {
                if first.format > FORMAT {
                    return Err(BackupError::Format(first.format));
                }
                header = Some(first);
            }
            Line::Header(_) => return Err(BackupError::Torn("it has two headers")),
            Line::Entry { key, value } => {
                let value = serde_json::to_vec(&value).map_err(damaged)?;
                entries.push((key, value));
            }
            Line::Sealed { file, sealed: text } => sealed.push((file, text)),
            Line::End { entries, sha256 } => {
                if sha256 != Fingerprint::of_spki(&dump[..read]) {
                    return Err(BackupError::Torn("its checksum is another"));
                }
                ended = Some(entries);
            }
        }
        read += text.len();
    }
    let header = header.ok_or(BackupError::Torn("it has no header"))?;
    match ended {
        Some(count) if count == entries.len() => Ok(Dump { header, entries, sealed }),
        Some(_) => Err(BackupError::Torn("entries are missing")),
        None => Err(BackupError::Torn("it has no end")),
    }
}

/// Makes the mesh of a dump in an empty store. `now_ms` is the time in Unix milliseconds. Answers with the
/// new epoch.
///
/// # Errors
/// If the store is not empty or does not take it, or the dump does not make a mesh.
pub async fn restore(store: &dyn Store, dump: &Dump, now_ms: u64) -> Result<u64, BackupError> {
    if !store.list(ROOT).await?.entries.is_empty() {
        return Err(BackupError::NotEmpty);
    }
    let epoch = now_ms.max(dump.header.epoch + 1);
    let mut ops = Vec::with_capacity(dump.entries.len());
    for (key, value) in &dump.entries {
        let parsed: Key = key.parse().map_err(LoadError::from)?;
        let value = match Record::decode(parsed, value).map_err(LoadError::from)? {
            Record::Token(..) => continue,
            Record::Mesh(mesh) => record::encode(&record::Mesh { epoch, ..mesh }),
            Record::Namespace(..)
            | Record::Edge(..)
            | Record::Route(..)
            | Record::Cert(..)
            | Record::Denied(..)
            | Record::Admin(..)
            | Record::Issuer(..) => value.clone(),
        };
        ops.push(Op::Put { key: key.clone(), value });
    }
    check(&ops)?;
    // The mesh's record last, so that a store that took only a part is no store.
    ops.sort_by_key(|op| op.key() == Key::Mesh.to_string());
    let most = store.max_ops().min(ops.len().max(1));
    for part in ops.chunks(most) {
        store.commit(Txn { compares: Vec::new(), ops: part.to_vec() }).await?;
    }
    Ok(epoch)
}

/// Whether a state could be loaded of these.
fn check(ops: &[Op]) -> Result<(), LoadError> {
    let entries = ops.iter().filter_map(|op| match op {
        Op::Put { key, value } => {
            Some(crate::store::Entry { key: key.clone(), value: value.clone(), modified: 1 })
        }
        Op::Delete { .. } => None,
    });
    State::load(&View { revision: 1, entries: entries.collect() }).map(drop)
}

fn line(out: &mut Vec<u8>, line: &Line) {
    #[expect(clippy::expect_used, reason = "a line has string keys and no failing serializers")]
    let text = serde_json::to_vec(line).expect("a line is JSON");
    out.extend_from_slice(&text);
    out.push(b'\n');
}

fn end(out: &mut Vec<u8>, entries: usize) {
    // A plain SHA-256, of whatever it is.
    let sha256 = Fingerprint::of_spki(out);
    line(out, &Line::End { entries, sha256 });
}

fn last_line(dump: &[u8]) -> &[u8] {
    dump.split_inclusive(|byte| *byte == b'\n').next_back().unwrap_or_default()
}

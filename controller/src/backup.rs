//! The logical dump of a store, and the store of a dump.
//!
//! A dump is text, one JSON value per line: a header, the entries as they are in the store, and an end that
//! counts them and has their SHA-256, so that half a file is no backup. With a passphrase the CA's keys
//! and the controller's go before the end, sealed; without one they are not in it.
//!
//! A restore makes a new store: a later epoch, so that edges take its state although its revisions are
//! older; no join tokens, for those of the dump may have been used since. What was denied stays denied.
//! Which controllers run is in no dump.
//! What was denied after the dump was made is not in it: revoke it again.
//!
//! The audit log is part of a dump, up to its newest [`RECORDS`], and a restore adds its own record.

use cframe_pki::{Fingerprint, seal};
use cframe_store::{CommitError, Compare, Entry, Op, Page, ReadError, Revision, Store, Txn, View};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    audit,
    model::{
        LoadError, State,
        record::{self, Key, MeshRecord, ROOT, Record},
    },
};

/// 2 has the audit log; 1 has none, and is read too.
const FORMAT: u32 = 2;

/// Records of the audit log in a dump at most.
pub const RECORDS: usize = 10_000;
/// Of these, read at once.
const PAGE: usize = 500;

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
    /// The store has a mesh.
    #[error("the store has a mesh already; restore into another one")]
    NotEmpty,
}

/// Everything in a store, as of one revision. No keys are in it; [`add_keys`] adds them.
///
/// # Errors
/// If the store cannot be read or holds what is not JSON.
pub async fn dump(store: &dyn Store, now: u64) -> Result<Vec<u8>, BackupError> {
    let mut view = store.list(ROOT).await?;
    view.entries.retain(|entry| !entry.key.starts_with(record::ALIVE));
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
    let records = records(store, view.revision).await?;
    let entries = || view.entries.iter().chain(&records);
    for entry in entries() {
        let value = serde_json::from_slice(&entry.value)
            .map_err(|error| BackupError::Value(entry.key.clone(), error))?;
        line(&mut out, &Line::Entry { key: entry.key.clone(), value });
    }
    end(&mut out, entries().count());
    Ok(out)
}

/// The newest records of the audit log as of a revision, the oldest first.
async fn records(store: &dyn Store, revision: Revision) -> Result<Vec<Entry>, ReadError> {
    let mut records: Vec<Entry> = Vec::new();
    let mut end = audit::END.to_owned();
    while records.len() < RECORDS {
        let start = audit::ROOT.to_owned();
        let page = Page { start, end, limit: PAGE, from_end: true, values: true };
        let entries = store.page(&page).await?.entries;
        let Some(oldest) = entries.last().map(|entry| entry.key.clone()) else { break };
        records.extend(entries.into_iter().filter(|entry| entry.modified <= revision));
        end = oldest;
    }
    records.truncate(RECORDS);
    records.reverse();
    Ok(records)
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

/// Makes the mesh of a dump in a store that has none. `now_ms` is the time in Unix milliseconds, `record` what the
/// audit log has of it. Answers with the new epoch.
///
/// A store that takes only so much at once gets it in several transactions, the mesh's own record last: until
/// then it has no mesh, and the next attempt clears away what one that was cut off left there.
///
/// # Errors
/// If the store has a mesh or does not take it, or the dump does not make a mesh, or somebody else restores at
/// the same time.
pub async fn restore(
    store: &dyn Store,
    dump: &Dump,
    now_ms: u64,
    record: Op,
) -> Result<u64, BackupError> {
    let epoch = now_ms.max(dump.header.epoch + 1);
    let mut ops = Vec::with_capacity(dump.entries.len());
    let mut records = vec![record];
    for (key, value) in &dump.entries {
        if key.starts_with(audit::ROOT) {
            records.push(Op::Put { key: key.clone(), value: value.clone() });
            continue;
        }
        let parsed: Key = key.parse().map_err(LoadError::from)?;
        let value = match Record::decode(parsed, value).map_err(LoadError::from)? {
            Record::Token(..) | Record::Alive(..) => continue,
            Record::Mesh(mesh) => record::encode(&MeshRecord { epoch, ..mesh }),
            Record::Namespace(..)
            | Record::Edge(..)
            | Record::Route(..)
            | Record::Cert(..)
            | Record::Denied(..)
            | Record::Admin(..)
            | Record::Controller(..)
            | Record::Issuer(..) => value.clone(),
        };
        ops.push(Op::Put { key: key.clone(), value });
    }
    check(&ops)?;
    ops.append(&mut records);
    let found = store.list(ROOT).await?.entries;
    let mesh = Key::Mesh.to_string();
    if found.iter().any(|entry| entry.key == mesh) {
        return Err(BackupError::NotEmpty);
    }
    let mut claim = Claim::take(store, epoch).await?;
    let leftover = found.into_iter().map(|entry| Op::Delete { key: entry.key }).collect();
    let (last, others): (Vec<_>, Vec<_>) = ops.into_iter().partition(|op| op.key() == mesh);
    let most = store.max_ops().min(AT_ONCE) - 1;
    for part in parts(leftover, most).into_iter().chain(parts(others, most)) {
        claim.commit(store, part).await?;
    }
    claim.end(store, last, Compare { key: mesh, modified: 0 }).await?;
    Ok(epoch)
}

/// The most effects of one transaction of a restore.
const AT_ONCE: usize = 1_000;
/// Bytes of one transaction of a restore, unless a single value is larger: etcd takes 1.5 MiB.
const BYTES_AT_ONCE: usize = 512 << 10;

/// What is done at once: so many effects at most, and no more bytes than are taken.
fn parts(ops: Vec<Op>, most: usize) -> Vec<Vec<Op>> {
    let mut parts: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        let size = match &op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        };
        match parts.last_mut().filter(|part| part.len() < most && bytes + size <= BYTES_AT_ONCE) {
            Some(part) => {
                bytes += size;
                part.push(op);
            }
            None => {
                bytes = size;
                parts.push(vec![op]);
            }
        }
    }
    parts
}

/// The key that whoever restores has, and writes again in every transaction: of two at once, the later one goes
/// on and the other ends.
struct Claim {
    value: Vec<u8>,
    held: Compare,
}

impl Claim {
    const KEY: &str = "/cframe/restore";

    async fn take(store: &dyn Store, epoch: u64) -> Result<Self, CommitError> {
        let value = serde_json::json!({ "epoch": epoch }).to_string().into_bytes();
        let ops = vec![Op::Put { key: Self::KEY.to_owned(), value: value.clone() }];
        let modified = store.commit(Txn { compares: Vec::new(), ops }).await?;
        Ok(Self { value, held: Compare { key: Self::KEY.to_owned(), modified } })
    }

    async fn commit(&mut self, store: &dyn Store, mut ops: Vec<Op>) -> Result<(), CommitError> {
        ops.push(Op::Put { key: Self::KEY.to_owned(), value: self.value.clone() });
        let compares = vec![self.held.clone()];
        self.held.modified = store.commit(Txn { compares, ops }).await?;
        Ok(())
    }

    async fn end(
        self,
        store: &dyn Store,
        mut ops: Vec<Op>,
        demand: Compare,
    ) -> Result<(), CommitError> {
        ops.push(Op::Delete { key: Self::KEY.to_owned() });
        store.commit(Txn { compares: vec![self.held, demand], ops }).await?;
        Ok(())
    }
}

/// Whether a state could be loaded of these.
fn check(ops: &[Op]) -> Result<(), LoadError> {
    let entries = ops.iter().filter_map(|op| match op {
        Op::Put { key, value } => {
            Some(Entry { key: key.clone(), value: value.clone(), modified: 1 })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_at_its_number_or_its_size() {
        let op = |size| Op::Put { key: "a".to_owned(), value: vec![0; size] };
        let lengths = |ops, most| parts(ops, most).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths((0..5).map(|_| op(1)).collect(), 2), [2, 2, 1]);
        // Records of the audit log are up to 16 KiB each.
        assert_eq!(lengths((0..126).map(|_| op(16 << 10)).collect(), 126), [31, 31, 31, 31, 2]);
        assert_eq!(lengths(vec![op(1), op(BYTES_AT_ONCE), op(1)], 126), [1, 1, 1]);
        assert!(parts(Vec::new(), 126).is_empty());
    }
}

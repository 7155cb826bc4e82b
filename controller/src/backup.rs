//! Dumps a store as text, and makes a new store from a dump.
//!
//! A dump is text, one JSON value per line: a header, the entries as they are in the store, and an end with their number and
//! their SHA-256, so that a truncated file is noticed. With a passphrase, the keys of the CA and of the controller come
//! before the end, encrypted; without one they are not in the dump.
//!
//! A restore makes a new store with a later epoch, so that edges take its state although its revisions are older. It has no
//! join tokens, because those in the dump may have been used since, and no keys of running controllers. Denied certificates
//! stay denied; those that were denied after the dump was made must be revoked again.
//!
//! The audit log's newest [`MAX_AUDIT_RECORDS`] are in the dump, and a restore adds its own record.

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

/// 2 has the audit log. 1 does not, and can still be read.
const FORMAT: u32 = 2;

pub const MAX_AUDIT_RECORDS: usize = 10_000;
/// Records of the audit log in memory at a time.
const PAGE_SIZE: usize = 500;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Header(Header),
    Entry { key: String, value: serde_json::Value },
    Sealed { file: String, sealed: String },
    End { entries: usize, sha256: Fingerprint },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    pub mesh: String,
    pub epoch: u64,
    /// Of the store.
    pub revision: u64,
    /// Unix seconds.
    pub made: u64,
}

/// A parsed dump.
#[derive(Debug)]
pub struct Dump {
    pub header: Header,
    /// Key and value.
    pub entries: Vec<(String, Vec<u8>)>,
    /// File name and encrypted content.
    pub sealed: Vec<(String, String)>,
}

#[derive(Debug, Error)]
pub enum BackupError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the value of {0} is not JSON: {1}")]
    Value(String, serde_json::Error),
    #[error("line {0} of the backup is damaged: {1}")]
    Line(usize, String),
    #[error("the backup is incomplete or was changed: {0}")]
    Torn(&'static str),
    #[error("the backup has format {0}, and this program knows up to {FORMAT}; use a newer one")]
    Format(u32),
    #[error(transparent)]
    Seal(#[from] seal::SealError),
    #[error("the store has a mesh already; restore into another store")]
    NotEmpty,
}

/// Dumps a store as of one revision. [`add_keys`] adds the keys.
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
    while records.len() < MAX_AUDIT_RECORDS {
        let start = audit::ROOT.to_owned();
        let page = Page { start, end, limit: PAGE_SIZE, from_end: true, values: true };
        let entries = store.page(&page).await?.entries;
        let Some(oldest) = entries.last().map(|entry| entry.key.clone()) else { break };
        records.extend(entries.into_iter().filter(|entry| entry.modified <= revision));
        end = oldest;
    }
    records.truncate(MAX_AUDIT_RECORDS);
    records.reverse();
    Ok(records)
}

/// Adds files to a dump, encrypted with a passphrase.
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

/// Parses a dump. Anything missing or damaged is an error.
pub fn parse(dump: &[u8]) -> Result<Dump, BackupError> {
    let mut header = None;
    let (mut entries, mut sealed) = (Vec::new(), Vec::new());
    let mut ended = None;
    let mut read = 0;
    for (number, text) in dump.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if ended.is_some() {
            return Err(BackupError::Torn("something follows the end"));
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
                    return Err(BackupError::Torn("the checksum is wrong"));
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

/// Makes a dump's mesh in a store that has none. `now_ms` is in Unix milliseconds, `record` is the restore's record of the
/// audit log. Returns the new epoch.
///
/// Several transactions may be necessary. The mesh's own record comes last: until then the store has no mesh, and the next
/// attempt deletes what an interrupted one left.
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
    let max = store.max_ops().min(MAX_BATCH) - 1;
    for batch in batches(leftover, max).into_iter().chain(batches(others, max)) {
        claim.commit(store, batch).await?;
    }
    claim.end(store, last, Compare { key: mesh, modified: 0 }).await?;
    Ok(epoch)
}

/// Effects of one transaction of a restore.
const MAX_BATCH: usize = 1_000;
/// Bytes of one transaction of a restore, unless a single value is larger: etcd takes 1.5 MiB.
const MAX_BATCH_BYTES: usize = 512 << 10;

/// Splits effects into batches of at most `max` effects and [`MAX_BATCH_BYTES`].
fn batches(ops: Vec<Op>, max: usize) -> Vec<Vec<Op>> {
    let mut batches: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        let size = match &op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        };
        match batches
            .last_mut()
            .filter(|batch| batch.len() < max && bytes + size <= MAX_BATCH_BYTES)
        {
            Some(batch) => {
                bytes += size;
                batch.push(op);
            }
            None => {
                bytes = size;
                batches.push(vec![op]);
            }
        }
    }
    batches
}

/// A key that a restore owns, and writes again in every transaction. If two run at the same time, the one that started
/// later continues, and the other fails.
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

/// Whether a state can be loaded from these.
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
    // It is a plain SHA-256, despite its name.
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
    fn a_batch_ends_at_its_number_or_its_size() {
        let op = |size| Op::Put { key: "a".to_owned(), value: vec![0; size] };
        let lengths = |ops, max| batches(ops, max).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths((0..5).map(|_| op(1)).collect(), 2), [2, 2, 1]);
        // Records of the audit log are up to 16 KiB each.
        assert_eq!(lengths((0..126).map(|_| op(16 << 10)).collect(), 126), [31, 31, 31, 31, 2]);
        assert_eq!(lengths(vec![op(1), op(MAX_BATCH_BYTES), op(1)], 126), [1, 1, 1]);
        assert!(batches(Vec::new(), 126).is_empty());
    }
}

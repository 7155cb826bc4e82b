//! `audit`: the newest matching records, the oldest of them first, page by page; then, if wanted, new ones as they are
//! written.

use std::{collections::HashSet, time::Duration};

use cframe_protocol::v1::{AuditQuery, AuditRow, CallError, ErrorCode, Reply};
use cframe_store::{Entry, Page, ReadError, Revision, WatchError};
use tokio::time::sleep;

use super::{Replies, request::Request};
use crate::{
    audit::{AuditRecord, END, ROOT, key_at},
    mesh::Replica,
};

/// Records in memory for one call.
const PAGE_SIZE: usize = 256;
/// Bytes. The records that controllers write are much shorter.
const MAX_RECORD: usize = 32 * 1024;
/// A follower gets an empty piece at this interval, so that one that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Answers a query in pieces. A caller that follows is authorised again for each of them.
pub(super) async fn answer(request: &Request<'_>, query: &AuditQuery) -> Result<(), CallError> {
    let (replica, replies) = (&request.context.replica, request.replies);
    let Some((revision, listed)) = list(replica, query, replies).await? else { return Ok(()) };
    if !query.follow {
        return Ok(());
    }
    let _place = replica.journal().followers.try_acquire().map_err(|_| {
        unavailable(
            "too many follow the audit log of this controller; end one of them, or try again later",
        )
    })?;
    let mut watch = replica.store().watch(ROOT, revision).await.map_err(ended)?;
    loop {
        let batch = tokio::select! {
            batch = watch.next() => Some(batch.map_err(ended)?),
            () = sleep(HEARTBEAT) => None,
            () = replies.closed() => return Ok(()),
            () = request.context.stop.cancelled() => {
                return Err(unavailable("the controller is stopped"));
            }
        };
        request.authorise()?;
        let changes = batch.map(|batch| batch.changes).unwrap_or_default();
        let new = changes.into_iter().filter_map(|(key, value)| row(query, &key, &value?));
        let rows = new.filter(|row| !listed.contains(&row.id)).collect();
        if !send(replies, rows).await {
            return Ok(());
        }
    }
}

/// Sends the records that exist. Returns the revision to follow from, and the ids of those sent that are later; `None` if
/// the reader is gone.
async fn list(
    replica: &Replica,
    query: &AuditQuery,
    replies: &Replies,
) -> Result<Option<(Revision, HashSet<String>)>, CallError> {
    let mut start = query.since.map_or_else(|| ROOT.to_owned(), key_at);
    let end = query.until.map_or_else(|| END.to_owned(), key_at);
    if query.limit > 0 {
        start = start_of_newest(replica, query, &start, &end).await?;
    }
    let mut revision = None;
    let mut later = HashSet::new();
    loop {
        let page = read(replica, &start, &end, false).await?;
        let revision = *revision.get_or_insert(page.0);
        let full = page.1.len() == PAGE_SIZE;
        if let Some(last) = page.1.last() {
            // The next possible key.
            start = format!("{}\u{0}", last.key);
        }
        let mut rows = Vec::new();
        for entry in page.1 {
            if let Some(row) = row(query, &entry.key, &entry.value) {
                if query.follow && entry.modified > revision {
                    later.insert(row.id.clone());
                }
                rows.push(row);
            }
        }
        if !send(replies, rows).await {
            return Ok(None);
        }
        if !full {
            return Ok(Some((revision, later)));
        }
    }
}

/// The key of the oldest of the newest `limit` records that match.
async fn start_of_newest(
    replica: &Replica,
    query: &AuditQuery,
    start: &str,
    end: &str,
) -> Result<String, CallError> {
    let mut left = query.limit;
    let mut end = end.to_owned();
    loop {
        let (_, entries) = read(replica, start, &end, true).await?;
        let full = entries.len() == PAGE_SIZE;
        for entry in entries {
            if matches(query, &entry.value) {
                left -= 1;
            }
            if left == 0 {
                return Ok(entry.key);
            }
            end = entry.key;
        }
        if !full {
            return Ok(start.to_owned());
        }
    }
}

async fn read(
    replica: &Replica,
    start: &str,
    end: &str,
    from_end: bool,
) -> Result<(Revision, Vec<Entry>), CallError> {
    let (start, end) = (start.to_owned(), end.to_owned());
    let page = Page { start, end, limit: PAGE_SIZE, from_end, values: true };
    let read = replica.store().page(&page).await;
    let view = read.map_err(|error: ReadError| unavailable(&error.to_string()))?;
    Ok((view.revision, view.entries))
}

/// False if the reader is gone.
async fn send(replies: &Replies, rows: Vec<AuditRow>) -> bool {
    for piece in Reply::Audit(rows).split() {
        if replies.send(Ok(piece)).await.is_err() {
            return false;
        }
    }
    true
}

fn row(query: &AuditQuery, key: &str, value: &[u8]) -> Option<AuditRow> {
    let id = key.strip_prefix(ROOT)?.to_owned();
    let record = matches(query, value).then(|| String::from_utf8(value.to_vec()).ok())??;
    Some(AuditRow { id, record })
}

/// Whether it is a record that the query wants.
fn matches(query: &AuditQuery, value: &[u8]) -> bool {
    if value.len() > MAX_RECORD {
        return false;
    }
    let Ok(record) = serde_json::from_slice::<AuditRecord>(value) else { return false };
    query.who.as_ref().is_none_or(|who| is_by(&record.who, who))
        && query.namespace.as_ref().is_none_or(|name| record.namespace.as_ref() == Some(name))
        && query.call.as_ref().is_none_or(|call| record.call == *call)
}

/// `admin/alice` matches `admin`, `alice` and `admin/alice`.
fn is_by(who: &str, wanted: &str) -> bool {
    who == wanted
        || who.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/'))
        || who.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'))
}

fn ended(error: WatchError) -> CallError {
    unavailable(&format!("{error}; try again"))
}

fn unavailable(message: &str) -> CallError {
    CallError::new(ErrorCode::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_who_is_enough() {
        for wanted in ["edge/prod/a", "edge", "edge/prod", "a", "prod/a"] {
            assert!(is_by("edge/prod/a", wanted), "{wanted}");
        }
        for wanted in ["", "edg", "dge/prod/a", "prod", "edge/prod/", "/a"] {
            assert!(!is_by("edge/prod/a", wanted), "{wanted}");
        }
    }

    #[test]
    fn a_record_of_a_later_version_is_sent_and_anything_else_is_not() {
        let all = AuditQuery::default();
        let later = br#"{"schema":9,"time":1,"controller":"c","who":"x/y","call":"z","result":"ok","new":[1]}"#;
        assert!(matches(&all, later));
        assert!(!matches(&all, b"{}") && !matches(&all, b"\xff"));
        let other = AuditQuery { who: Some("y".to_owned()), call: Some("q".to_owned()), ..all };
        assert!(!matches(&other, later));
    }
}

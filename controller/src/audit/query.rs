//! Reading the log: the newest records that are asked for, the oldest first, page by page, and then those that
//! are made.

use std::{collections::HashSet, time::Duration};

use cframe_protocol::v1::{AuditQuery, AuditRow, CallError, ErrorCode, Reply};
use cframe_store::{Entry, Page, ReadError, Revision, WatchError};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{END, ROOT, Record, key_at};
use crate::mesh::Mesh;

/// Records read at once: what a call holds.
const PAGE: usize = 256;
/// The longest record that is given; none that is written here comes near it.
const LONGEST: usize = 32 * 1024;
/// How often somebody who follows hears something, so that it is noticed if they have gone.
const SIGN: Duration = Duration::from_secs(5);

type Replies = mpsc::Sender<Result<Reply, CallError>>;

/// Answers a query in pieces. `allowed` is asked again and again while somebody follows.
///
/// # Errors
/// If the store cannot be read, or the asker may no longer.
pub(crate) async fn answer(
    mesh: &Mesh,
    query: &AuditQuery,
    allowed: impl Fn() -> Result<(), CallError>,
    replies: &Replies,
    stop: &CancellationToken,
) -> Result<(), CallError> {
    let Some((revision, listed)) = list(mesh, query, replies).await? else { return Ok(()) };
    if !query.follow {
        return Ok(());
    }
    let _place = mesh.journal().followers.try_acquire().map_err(|_| {
        unavailable(
            "too many follow the audit log of this controller; end one of them, or ask later",
        )
    })?;
    let mut watch = mesh.store().watch(ROOT, revision).await.map_err(ended)?;
    loop {
        let batch = tokio::select! {
            batch = watch.next() => Some(batch.map_err(ended)?),
            () = sleep(SIGN) => None,
            () = replies.closed() => return Ok(()),
            () = stop.cancelled() => return Err(unavailable("the controller is stopped")),
        };
        allowed()?;
        let changes = batch.map(|batch| batch.changes).unwrap_or_default();
        let new = changes.into_iter().filter_map(|(key, value)| row(query, &key, &value?));
        let rows = new.filter(|row| !listed.contains(&row.id)).collect();
        if !send(replies, rows).await {
            return Ok(());
        }
    }
}

/// Gives what there is. Answers with the revision from which to go on, and the records given that are later;
/// `None` if the reader has gone.
async fn list(
    mesh: &Mesh,
    query: &AuditQuery,
    replies: &Replies,
) -> Result<Option<(Revision, HashSet<String>)>, CallError> {
    let mut start = query.since.map_or_else(|| ROOT.to_owned(), key_at);
    let end = query.until.map_or_else(|| END.to_owned(), key_at);
    if query.limit > 0 {
        start = start_of_newest(mesh, query, &start, &end).await?;
    }
    let mut revision = None;
    let mut later = HashSet::new();
    loop {
        let page = read(mesh, &start, &end, false).await?;
        let revision = *revision.get_or_insert(page.0);
        let full = page.1.len() == PAGE;
        if let Some(last) = page.1.last() {
            // The least key after this one.
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
    mesh: &Mesh,
    query: &AuditQuery,
    start: &str,
    end: &str,
) -> Result<String, CallError> {
    let mut left = query.limit;
    let mut end = end.to_owned();
    loop {
        let (_, entries) = read(mesh, start, &end, true).await?;
        let full = entries.len() == PAGE;
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
    mesh: &Mesh,
    start: &str,
    end: &str,
    from_end: bool,
) -> Result<(Revision, Vec<Entry>), CallError> {
    let (start, end) = (start.to_owned(), end.to_owned());
    let page = Page { start, end, limit: PAGE, from_end, values: true };
    let read = mesh.store().page(&page).await;
    let view = read.map_err(|error: ReadError| unavailable(&error.to_string()))?;
    Ok((view.revision, view.entries))
}

/// Whether somebody still takes the answer.
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

/// Whether it is a record, and one that is asked for.
fn matches(query: &AuditQuery, value: &[u8]) -> bool {
    if value.len() > LONGEST {
        return false;
    }
    let Ok(record) = serde_json::from_slice::<Record>(value) else { return false };
    query.who.as_ref().is_none_or(|who| is_by(&record.who, who))
        && query.namespace.as_ref().is_none_or(|name| record.namespace.as_ref() == Some(name))
        && query.call.as_ref().is_none_or(|call| record.call == *call)
}

/// `admin/alice` is by `admin`, by `alice` and by `admin/alice`.
fn is_by(who: &str, wanted: &str) -> bool {
    who == wanted
        || who.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('/'))
        || who.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'))
}

fn ended(error: WatchError) -> CallError {
    unavailable(&format!("{error}; ask again"))
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
    fn a_record_of_a_later_program_is_given_and_what_is_none_is_not() {
        let all = AuditQuery::default();
        let later = br#"{"schema":9,"time":1,"controller":"c","who":"x/y","call":"z","result":"ok","new":[1]}"#;
        assert!(matches(&all, later));
        assert!(!matches(&all, b"{}") && !matches(&all, b"\xff"));
        let other = AuditQuery { who: Some("y".to_owned()), call: Some("q".to_owned()), ..all };
        assert!(!matches(&other, later));
    }
}

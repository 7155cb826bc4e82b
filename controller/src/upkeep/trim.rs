//! Trims the audit log. It makes no difference which controllers do it, or several at once: a deletion compares
//! nothing, so it conflicts with nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_store::{Op, Page, ReadError, Store};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{END, ROOT, Retention, key_at, millis},
    clock::JumpDetector,
    context::Context,
    mesh::Replica,
};

/// Besides, the log is trimmed whenever it has grown by a tenth.
const TRIM_INTERVAL: Duration = Duration::from_secs(600);
/// Keys in one page of a count.
const PAGE_SIZE: usize = 1000;
const MAX_BATCH: usize = 100;
const BATCH_DELAY: Duration = Duration::from_millis(50);

/// Trims until stopped.
pub(crate) async fn trim_log(context: Arc<Context>, stop: CancellationToken) {
    let replica = &context.replica;
    let mut jumps = JumpDetector::new(replica.now(), Instant::now());
    loop {
        let trimmed = async {
            let now = replica.now();
            // A clock that is years ahead must not delete the log. The number of records is limited in any case.
            let now = jumps.is_trusted(now, Instant::now()).then(|| millis(now));
            let Some(first) = first_kept(&**replica.store(), replica.retention(), now).await?
            else {
                return Ok(());
            };
            while delete_batch(replica, &first).await? {
                tokio::time::sleep(BATCH_DELAY).await;
            }
            anyhow::Ok(())
        };
        match stop.run_until_cancelled(trimmed).await {
            None => return,
            Some(Err(error)) => tracing::warn!(%error, "the audit log was not trimmed"),
            Some(Ok(())) => {}
        }
        tokio::select! {
            () = replica.journal().trim_due.notified() => {}
            () = tokio::time::sleep(TRIM_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The key before which everything is deleted, if anything is. `now` is in Unix milliseconds, `None` if the clock is
/// not trusted.
async fn first_kept(
    store: &dyn Store,
    retention: Retention,
    now: Option<u64>,
) -> Result<Option<String>, ReadError> {
    let age = u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX);
    let by_age = now.map(|now| key_at(now.saturating_sub(age)));
    let mut left = retention.records;
    let mut end = END.to_owned();
    let by_number = loop {
        let limit = left.min(PAGE_SIZE);
        let page = Page { start: ROOT.to_owned(), end, limit, from_end: true, values: false };
        let mut entries = store.page(&page).await?.entries;
        let count = entries.len();
        let Some(oldest) = entries.pop() else { break None };
        left -= count;
        if left == 0 {
            break Some(oldest.key);
        }
        if count < limit {
            break None;
        }
        end = oldest.key;
    };
    Ok(by_age.max(by_number))
}

/// Returns whether there may be more to delete.
async fn delete_batch(replica: &Replica, first_kept: &str) -> anyhow::Result<bool> {
    let limit = MAX_BATCH.min(replica.store().max_ops());
    let (start, end) = (ROOT.to_owned(), first_kept.to_owned());
    let page = Page { start, end, limit, from_end: false, values: false };
    let entries = replica.store().page(&page).await?.entries;
    let ops: Vec<Op> = entries.into_iter().map(|entry| Op::Delete { key: entry.key }).collect();
    let count = ops.len();
    if count > 0 {
        replica.delete_unwatched(ops).await?;
        replica.metrics.audit("trimmed", count as u64);
    }
    Ok(count == limit)
}

#[cfg(test)]
mod tests {
    use cframe_store::{Txn, redb::Redb};

    use super::*;

    async fn store(count: u64) -> (tempfile::TempDir, Redb) {
        let directory = tempfile::tempdir().unwrap();
        let store = Redb::open(&directory.path().join("store")).unwrap();
        let ops =
            (0..count).map(|ms| Op::Put { key: format!("{}-c1-0", key_at(ms)), value: vec![] });
        let before = ["/cframe/audi", "/cframe/audit0", "/cframe/v1/mesh"];
        let other = before.map(|key| Op::Put { key: key.to_owned(), value: vec![] });
        let ops = ops.chain(other).collect();
        store.commit(Txn { compares: Vec::new(), ops }).await.unwrap();
        (directory, store)
    }

    #[tokio::test]
    async fn the_newest_are_kept_by_number_and_by_age_whichever_is_less() {
        let (_directory, store) = store(2500).await;
        let first = async |records, age, now| {
            let retention = Retention { records, age: Duration::from_millis(age) };
            first_kept(&store, retention, now).await.unwrap()
        };
        let key = |ms| Some(format!("{}-c1-0", key_at(ms)));
        assert_eq!(first(2400, 9999, None).await, key(100));
        assert_eq!(first(1000, 9999, Some(2500)).await, key(1500));
        assert_eq!(first(1, 9999, Some(2500)).await, key(2499));
        assert_eq!(first(2500, 9999, None).await, key(0));
        assert_eq!(first(9000, 9999, None).await, None);
        assert_eq!(first(9000, 500, Some(2500)).await, Some(key_at(2000)));
        assert_eq!(first(100, 500, Some(2500)).await, key(2400));
    }
}

//! Writes the audit log's records that belong to no transaction.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::context::Context;

const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often the number of omitted records is written.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(600);

/// Writes what waits until stopped, and then what is left.
pub(crate) async fn write_records(context: Arc<Context>, stop: CancellationToken) {
    let replica = &context.replica;
    let journal = replica.journal();
    let sum_up = || {
        let omitted = journal.sum_up(replica.now());
        if omitted > 0 {
            replica.metrics.audit("left_out", omitted);
            tracing::warn!(omitted, "too many calls to record each in the audit log");
        }
    };
    let mut summary = tokio::time::interval(SUMMARY_INTERVAL);
    let mut stopped = false;
    while !stopped {
        tokio::select! {
            () = journal.added() => {}
            _ = summary.tick() => sum_up(),
            () = stop.cancelled() => {
                sum_up();
                stopped = true;
            }
        }
        loop {
            let ops = journal.take();
            if ops.is_empty() {
                break;
            }
            if let Err(error) = replica.write_records(ops.clone()).await {
                tracing::warn!(%error, records = ops.len(), "records of the audit log have to wait");
                journal.put_back(ops);
                if stop.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await.is_none() {
                    return;
                }
            }
        }
    }
}

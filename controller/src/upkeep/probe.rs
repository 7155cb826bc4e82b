//! Finds out whether the store takes writes, before somebody needs it: `/readyz` and `status` say so.

use std::{sync::Arc, time::Duration};

use cframe_store::Op;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// Without another write for this long, a key of its own is written. While writes fail, it is tried as often.
const INTERVAL: Duration = Duration::from_secs(3);
/// Outside of what is followed and backed up.
const ROOT: &str = "/cframe/probe/";

/// Runs until stopped.
pub(crate) async fn probe_writes(context: Arc<Context>, stop: CancellationToken) {
    let replica = &context.replica;
    let key = format!("{ROOT}{}", context.name());
    loop {
        if stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none() {
            return;
        }
        if replica.wrote_within(INTERVAL) {
            continue;
        }
        let value = replica.now().to_string().into_bytes();
        let probing = replica.probe_write(Op::Put { key: key.clone(), value });
        // A failure is a problem of the store until a write succeeds.
        if stop.run_until_cancelled(probing).await.is_none() {
            return;
        }
    }
}

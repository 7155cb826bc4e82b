//! Stores whether edges are members, for edges that an earlier version recorded.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    decide::{call::Lane, edge::record_memberships},
    model::State,
};

/// A controller of an earlier version may run beside this one, and drops the field when it writes an edge.
const INTERVAL: Duration = Duration::from_secs(60);
/// While there are more.
const NEXT: Duration = Duration::from_millis(50);
/// Edges in one transaction: etcd takes 128 operations.
const MAX_BATCH: usize = 50;

/// Runs until stopped.
pub(crate) async fn record(context: Arc<Context>, stop: CancellationToken) {
    let replica = &context.replica;
    let next = |state: &State| record_memberships(state, MAX_BATCH);
    loop {
        let mut pause = INTERVAL;
        if replica.read(|state| !next(state).is_empty()) {
            let decide = |state: &State| Ok((next(state), ()));
            match replica.write_unrecorded(&Lane::Mesh, decide).await {
                Ok(_) => pause = NEXT,
                Err(error) => tracing::warn!(%error, "whether edges are members was not stored"),
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

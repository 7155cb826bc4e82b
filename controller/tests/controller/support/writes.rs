//! Writes to a store, past any controller.

use cframe_store::{CommitError, Compare, Op, Revision, Store, Txn};

/// What the keys of a mesh start with.
pub(crate) const PREFIX: &str = "/cframe/v1/";

pub(crate) fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

pub(crate) fn put(name: &str, value: &str) -> Op {
    Op::Put { key: key(name), value: value.as_bytes().to_vec() }
}

/// A transaction that compares what it writes, as all transactions of a controller do.
pub(crate) fn compared(name: &str, value: &str, modified: Revision) -> Txn {
    let compares = vec![Compare { key: key(name), modified }];
    Txn { compares, ops: vec![put(name, value)] }
}

pub(crate) fn uncompared(ops: Vec<Op>) -> Txn {
    Txn { compares: Vec::new(), ops }
}

pub(crate) async fn write(
    store: &dyn Store,
    name: &str,
    value: &str,
) -> Result<Revision, CommitError> {
    store.commit(uncompared(vec![put(name, value)])).await
}

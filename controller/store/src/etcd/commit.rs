//! A transaction takes effect at most once, and its answer is true.
//!
//! An attempt can end without an answer: the connection broke, the leader died with the proposal, or the member is slow. If
//! the transaction compares a key that it also writes, it is tried again. The first attempt that takes effect changes that
//! key's revision, so no other can, now or later. When a repeated attempt fails its comparison, the same transaction reads
//! this commit's [mark](super::marks):
//! - it has this commit's number: an earlier attempt took effect, at the mark's revision;
//! - it has an older number: no attempt took effect, and none can any more;
//! - there is no mark: the outcome is unknown.

use etcd_client::{Compare, CompareOp, GetOptions, TxnOp, TxnOpResponse, TxnResponse};
use tokio::time::Instant;

use super::{
    MAX_OPS,
    error::{Fate, Fault},
    kv,
    marks::{Mark, Marks},
    members::{Members, Round, TOTAL_TIMEOUT},
    signed, unsigned,
};
use crate::{CommitError, Op, Revision, Txn};

pub(super) async fn commit(
    members: &Members,
    marks: &Marks,
    txn: &Txn,
) -> Result<Revision, CommitError> {
    let size = txn.ops.len().max(txn.compares.len());
    if size > MAX_OPS {
        return Err(CommitError::TooLarge(format!(
            "{size} changes or comparisons at once; the maximum is {MAX_OPS}"
        )));
    }
    let mark = marks.lend();
    let request = request(txn, &mark);
    let fenced = is_fenced(txn);
    let deadline = Instant::now() + TOTAL_TIMEOUT;
    let mut round = Round::default();
    // Whether an attempt may have taken effect.
    let mut uncertain = false;
    loop {
        let member = members.current();
        let request = request.clone();
        let attempt =
            members.attempt(member, |client| async move { kv(&client).txn(request).await });
        let fault = match attempt.await {
            Ok(answer) => {
                let outcome = outcome(txn, &mark, &answer, uncertain);
                if !uncertain {
                    mark.give_back();
                }
                return outcome;
            }
            Err(fault) => fault,
        };
        uncertain |= fault.fate == Fate::Unknown;
        let again = fault.is_temporary() && (!uncertain || fenced) && Instant::now() < deadline;
        if !again {
            if !uncertain {
                mark.give_back();
            }
            return Err(commit_error(fault, uncertain));
        }
        tracing::debug!(reason = %fault.text, "a commit is tried again");
        round.next(members, member).await;
    }
}

fn request(txn: &Txn, mark: &Mark<'_>) -> etcd_client::Txn {
    let compares: Vec<Compare> = txn
        .compares
        .iter()
        .map(|compare| {
            let modified = signed(compare.modified);
            Compare::mod_revision(compare.key.as_str(), CompareOp::Equal, modified)
        })
        .collect();
    let mut effects: Vec<TxnOp> = txn
        .ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value } => TxnOp::put(key.as_str(), value.clone(), None),
            Op::Delete { key } => TxnOp::delete(key.as_str(), None),
        })
        .collect();
    effects.push(TxnOp::put(mark.key.as_str(), mark.value.clone(), None));
    let mut reads = vec![TxnOp::get(mark.key.as_str(), None)];
    let bare = GetOptions::new().with_keys_only();
    let keys = txn.compares.iter().map(|compare| compare.key.as_str());
    reads.extend(keys.map(|key| TxnOp::get(key, Some(bare.clone()))));
    etcd_client::Txn::new().when(compares).and_then(effects).or_else(reads)
}

/// Whether only one of several attempts can take effect: the transaction writes a key that it compares. Deleting a key that
/// must be absent writes nothing.
fn is_fenced(txn: &Txn) -> bool {
    txn.compares.iter().any(|compare| {
        txn.ops.iter().any(|op| match op {
            Op::Put { key, .. } => *key == compare.key,
            Op::Delete { key } => *key == compare.key && compare.modified > 0,
        })
    })
}

fn outcome(
    txn: &Txn,
    mark: &Mark<'_>,
    answer: &TxnResponse,
    uncertain: bool,
) -> Result<Revision, CommitError> {
    if answer.succeeded() {
        return match answer.header() {
            Some(header) => Ok(unsigned(header.revision())),
            None => Err(CommitError::Unavailable("etcd's answer has no revision".to_owned())),
        };
    }
    let found = answer.op_responses();
    let mut found = found.iter().map(|response| match response {
        TxnOpResponse::Get(found) => found.kvs().first(),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    });
    let marked = found.next().flatten();
    if uncertain {
        match marked {
            Some(marked) if marked.value() == mark.value => {
                return Ok(unsigned(marked.mod_revision()));
            }
            Some(_) => {}
            None => {
                return Err(CommitError::Unavailable(
                    "etcd did not answer, and was changed since".to_owned(),
                ));
            }
        }
    }
    let failed = txn.compares.iter().zip(found).find(|(compare, found)| {
        compare.modified != found.map_or(0, |found| unsigned(found.mod_revision()))
    });
    let key = failed.map(|(compare, _)| compare.key.clone()).unwrap_or_default();
    Err(CommitError::Conflict(key))
}

fn commit_error(fault: Fault, uncertain: bool) -> CommitError {
    if uncertain {
        return CommitError::Unavailable(fault.text);
    }
    fault.into_commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compare;

    fn put(key: &str) -> Op {
        Op::Put { key: key.to_owned(), value: Vec::new() }
    }

    fn compare(key: &str, modified: Revision) -> Compare {
        Compare { key: key.to_owned(), modified }
    }

    #[test]
    fn only_a_transaction_that_writes_what_it_compares_is_tried_again() {
        let fenced = |compares: &[Compare], ops: &[Op]| {
            is_fenced(&Txn { compares: compares.to_vec(), ops: ops.to_vec() })
        };
        let gone = || Op::Delete { key: "a".to_owned() };
        assert!(fenced(&[compare("a", 0)], &[put("a")]));
        assert!(fenced(&[compare("b", 4), compare("a", 3)], &[put("c"), gone()]));
        assert!(!fenced(&[], &[put("a")]));
        assert!(!fenced(&[compare("a", 3)], &[put("b")]));
        assert!(!fenced(&[compare("a", 0)], &[gone()]));
    }
}

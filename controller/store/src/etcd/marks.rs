//! Marks: every commit also writes a key of this handle with the commit's number. A commit that got no answer reads there
//! whether it happened.
//!
//! A handle has a few such keys and lends one to each commit, so a mark is always about the last commit that had it. It is
//! returned only after a certain answer: an attempt without one may still write it. Marks are not part of the mesh or of
//! backups. Those of handles that are gone are deleted after a day.

use std::{
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use etcd_client::{DeleteOptions, GetOptions};
use serde::{Deserialize, Serialize};

use super::{kv, members::Members, range_end};

/// All marks are below this.
pub const PREFIX: &str = "/cframe/commits/";

/// Seconds after a handle's last commit.
const MAX_AGE: u64 = 86_400;

#[derive(Debug)]
pub(super) struct Marks {
    handle: u64,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Names that no commit has at the moment.
    names: Vec<usize>,
    /// The number of names so far.
    made: usize,
}

/// A mark that is lent to one commit.
#[derive(Debug)]
pub(super) struct Mark<'a> {
    marks: &'a Marks,
    name: usize,
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Value {
    commit: String,
    /// Unix seconds.
    at: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self { handle: rand::random(), free: Mutex::default() }
    }
}

impl Marks {
    pub(super) fn lend(&self) -> Mark<'_> {
        let name = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.names.pop().unwrap_or_else(|| {
                free.made += 1;
                free.made
            })
        };
        let value = Value { commit: format!("{:016x}", rand::random::<u64>()), at: unix_now() };
        Mark {
            marks: self,
            name,
            key: format!("{PREFIX}{:016x}/{name}", self.handle),
            value: serde_json::to_vec(&value).unwrap_or_default(),
        }
    }
}

impl Mark<'_> {
    /// Nothing of this commit may be under way any more.
    pub(super) fn give_back(self) {
        let mut free = self.marks.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.names.push(self.name);
    }
}

/// Deletes old marks. After an error, the next start does it.
pub(super) async fn delete_old(members: &Members) {
    let options = GetOptions::new().with_range(range_end(PREFIX));
    let found = members.read(|client| {
        let (mut kv, options) = (kv(&client), options.clone());
        async move { kv.get(PREFIX, Some(options)).await }
    });
    let Ok(mut found) = found.await else { return };
    let now = unix_now();
    for found in found.take_kvs() {
        let old = serde_json::from_slice(found.value())
            .is_ok_and(|value: Value| value.at.saturating_add(MAX_AGE) < now);
        if !old {
            continue;
        }
        let (key, _) = found.into_key_value();
        let deleted = members.read(|client| {
            let (mut kv, key) = (kv(&client), key.clone());
            async move { kv.delete(key, Some(DeleteOptions::new())).await }
        });
        if deleted.await.is_err() {
            return;
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lent_again_only_after_a_certain_answer() {
        let marks = Marks::default();
        let first = marks.lend();
        let key = first.key.clone();
        first.give_back();
        let again = marks.lend();
        assert_eq!(again.key, key);
        drop(again);
        assert_ne!(marks.lend().key, key);
    }
}

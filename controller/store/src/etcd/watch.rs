//! The changes under a prefix, and the watchdog that notices when nobody would tell of them.
//!
//! etcd tells nothing while nothing changes, and a watch on a member that has stopped or is cut off looks the
//! same. So after [`QUIET`] it is asked for its progress, and the watch ends when no word has come for
//! [`DEAD`] after that. A member without a leader ends its watches by itself (`require_leader`).
//!
//! Progress is taken as a sign of life alone: etcd before 3.4.25 and 3.5.8 can report a revision that it has
//! not told of yet (etcd #15220).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    CLOSED, MAX_ANSWER,
    error::{Fate, Fault},
    members::{BUDGET, Members, Round},
    range_end, signed, text, unsigned,
};
use crate::{Batch, Boxed, Revision, Watch, WatchError};

/// After this long without a word, progress is asked for.
const QUIET: Duration = Duration::from_secs(2);
/// And after this long without an answer to that, the watch is over.
const DEAD: Duration = Duration::from_secs(4);

pub(super) struct EtcdWatch {
    members: Arc<Members>,
    member: usize,
    stream: WatchStream,
    parts: Parts,
    heard: Instant,
    asked: Option<Instant>,
    closed: CancellationToken,
}

/// Opens a watch, at the first member that answers.
pub(super) async fn open(
    members: Arc<Members>,
    prefix: &str,
    from: Revision,
    closed: CancellationToken,
) -> Result<EtcdWatch, WatchError> {
    let (key, end) = match prefix {
        "" => (vec![0], range_end(prefix)),
        _ => (prefix.as_bytes().to_vec(), range_end(prefix)),
    };
    let options = WatchOptions::new()
        .with_range(end)
        .with_start_revision(signed(from.saturating_add(1)))
        .with_progress_notify()
        .with_fragment();
    let deadline = Instant::now() + BUDGET;
    let mut round = Round::default();
    loop {
        let member = members.current();
        let (key, options) = (key.clone(), options.clone());
        let fault = match members.attempt(member, |client| begin(client, key, options)).await {
            Ok((stream, created)) => {
                let mut parts = Parts { at: from, ..Parts::default() };
                parts.take(created)?;
                let heard = Instant::now();
                return Ok(EtcdWatch {
                    members,
                    member,
                    stream,
                    parts,
                    heard,
                    asked: None,
                    closed,
                });
            }
            Err(fault) => fault,
        };
        if fault.fate == Fate::Compacted {
            return Err(WatchError::Compacted(from));
        }
        if !fault.is_passing() || Instant::now() >= deadline {
            return Err(WatchError::Ended(fault.text));
        }
        round.next(&members, member).await;
    }
}

/// The stream and its first word, which says that the watch is there.
async fn begin(
    client: Client,
    key: Vec<u8>,
    options: WatchOptions,
) -> Result<(WatchStream, WatchResponse), etcd_client::Error> {
    let mut client = client.watch_client().max_decoding_message_size(MAX_ANSWER);
    let mut stream = client.watch(key, Some(options)).await?;
    match stream.message().await? {
        Some(created) => Ok((stream, created)),
        None => Err(etcd_client::Error::WatchError("the watch ended at once".to_owned())),
    }
}

impl EtcdWatch {
    async fn advance(&mut self) -> Result<Batch, WatchError> {
        loop {
            if let Some(batch) = self.parts.whole.pop_front() {
                return Ok(batch);
            }
            let limit = match self.asked {
                None => self.heard + QUIET,
                Some(asked) => asked + DEAD,
            };
            // What has come is looked at before the clock: this may not have been asked for a while.
            tokio::select! {
                biased;
                () = self.closed.cancelled() => return Err(WatchError::Ended(CLOSED.to_owned())),
                word = self.stream.message() => {
                    self.heard = Instant::now();
                    self.asked = None;
                    match word {
                        Ok(Some(word)) => self.parts.take(word)?,
                        Ok(None) => return Err(WatchError::Ended("etcd ended it".to_owned())),
                        Err(error) => return Err(self.failed(&error)),
                    }
                }
                () = sleep_until(limit) => {
                    if self.asked.is_some() {
                        let silent = Fault::silent(self.members.endpoint(self.member));
                        return Err(WatchError::Ended(silent.text));
                    }
                    if let Err(error) = self.stream.request_progress().await {
                        return Err(self.failed(&error));
                    }
                    self.asked = Some(Instant::now());
                }
            }
        }
    }

    fn failed(&self, error: &etcd_client::Error) -> WatchError {
        let fault = Fault::of(self.members.endpoint(self.member), error);
        match fault.fate {
            Fate::Compacted => WatchError::Compacted(self.parts.at),
            Fate::NotDone
            | Fate::Stale
            | Fate::Denied
            | Fate::Full
            | Fate::TooLarge
            | Fate::NoLease
            | Fate::Unknown => WatchError::Ended(fault.text),
        }
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>> {
        Box::pin(async {
            let batch = self.advance().await;
            if matches!(batch, Err(WatchError::Ended(_))) {
                // The list and the watch that follow are not to wait for it too.
                self.members.leave(self.member).await;
            }
            batch
        })
    }
}

/// Puts revisions together: one may come in several fragments, several in one response.
#[derive(Debug, Default)]
struct Parts {
    /// The last revision that was given out or is being put together.
    at: Revision,
    /// It has begun, and more of it may come.
    begun: Option<Batch>,
    whole: VecDeque<Batch>,
}

impl Parts {
    fn take(&mut self, word: WatchResponse) -> Result<(), WatchError> {
        let WatchResponse(word) = word;
        if word.compact_revision > 0 {
            return Err(WatchError::Compacted(self.at));
        }
        if word.canceled {
            return Err(WatchError::Ended(format!("etcd cancelled it: {}", word.cancel_reason)));
        }
        let newest = word.header.map_or(0, |header| unsigned(header.revision));
        if newest < self.at {
            return Err(WatchError::Ended(format!(
                "this member of etcd is at revision {newest}, before {}",
                self.at
            )));
        }
        for event in word.events {
            let Some(kv) = event.kv else { continue };
            let revision = unsigned(kv.mod_revision);
            let key = text(kv.key).map_err(|error| WatchError::Ended(error.to_string()))?;
            let change = (key, (event.r#type == PUT).then_some(kv.value));
            self.change(revision, change);
        }
        if !word.fragment {
            self.whole.extend(self.begun.take());
        }
        Ok(())
    }

    fn change(&mut self, revision: Revision, change: (String, Option<Vec<u8>>)) {
        if let Some(begun) = self.begun.as_mut().filter(|begun| begun.revision == revision) {
            begun.changes.push(change);
        } else if revision > self.at {
            self.whole.extend(self.begun.take());
            self.at = revision;
            self.begun = Some(Batch { revision, changes: vec![change] });
        }
    }
}

/// etcd's api/mvccpb/kv.proto, `Event.EventType`.
const PUT: i32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str) -> (String, Option<Vec<u8>>) {
        (key.to_owned(), Some(Vec::new()))
    }

    #[test]
    fn a_revision_is_given_out_when_it_is_whole() {
        let mut parts = Parts { at: 4, ..Parts::default() };
        parts.change(5, change("a"));
        parts.change(5, change("b"));
        assert!(parts.whole.is_empty(), "more may come");
        parts.change(6, change("c"));
        let batch = parts.whole.pop_front().unwrap();
        assert_eq!((batch.revision, batch.changes.len()), (5, 2));
        assert!(parts.whole.is_empty());
        assert_eq!(parts.begun.as_ref().map(|begun| begun.revision), Some(6));
    }

    #[test]
    fn what_was_given_out_is_not_again() {
        let mut parts = Parts { at: 4, ..Parts::default() };
        parts.change(4, change("a"));
        assert!(parts.begun.is_none());
    }
}

//! The changes under a prefix, and a watchdog that notices when they would not be reported.
//!
//! etcd sends nothing while nothing changes, and so does a member that has stopped or is cut off. So after
//! [`IDLE_INTERVAL`] its progress is requested, and the watch ends if nothing comes for [`IDLE_TIMEOUT`] after that. A
//! member without a leader ends its watches by itself (`require_leader`).
//!
//! Progress only shows that the watch is alive: etcd before 3.4.25 and 3.5.8 can report a revision that it has not sent yet
//! (etcd #15220).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    CLOSED, MAX_ANSWER,
    error::{Fate, Fault},
    members::{Members, Round, TOTAL_TIMEOUT},
    range_end, signed, text, unsigned,
};
use crate::{Batch, Boxed, Revision, Watch, WatchError};

/// Without a message for this long, progress is requested.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);
/// Without a message for this long after that, the watch ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) struct EtcdWatch {
    members: Arc<Members>,
    member: usize,
    stream: WatchStream,
    batches: BatchAssembler,
    received_at: Instant,
    requested_at: Option<Instant>,
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
    let deadline = Instant::now() + TOTAL_TIMEOUT;
    let mut round = Round::default();
    loop {
        let member = members.current();
        let (key, options) = (key.clone(), options.clone());
        let fault = match members.attempt(member, |client| start(client, key, options)).await {
            Ok((stream, created)) => {
                let mut batches = BatchAssembler { at: from, ..BatchAssembler::default() };
                batches.add(created)?;
                let received_at = Instant::now();
                return Ok(EtcdWatch {
                    members,
                    member,
                    stream,
                    batches,
                    received_at,
                    requested_at: None,
                    closed,
                });
            }
            Err(fault) => fault,
        };
        if fault.fate == Fate::Compacted {
            return Err(WatchError::Compacted(from));
        }
        if !fault.is_temporary() || Instant::now() >= deadline {
            return Err(WatchError::Ended(fault.text));
        }
        round.next(&members, member).await;
    }
}

/// The stream and its first message, which confirms the watch.
async fn start(
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
            if let Some(batch) = self.batches.complete.pop_front() {
                return Ok(batch);
            }
            let limit = match self.requested_at {
                None => self.received_at + IDLE_INTERVAL,
                Some(requested_at) => requested_at + IDLE_TIMEOUT,
            };
            // Messages come before the clock: this may not have been polled for a while.
            tokio::select! {
                biased;
                () = self.closed.cancelled() => return Err(WatchError::Ended(CLOSED.to_owned())),
                message = self.stream.message() => {
                    self.received_at = Instant::now();
                    self.requested_at = None;
                    match message {
                        Ok(Some(message)) => self.batches.add(message)?,
                        Ok(None) => return Err(WatchError::Ended("etcd ended it".to_owned())),
                        Err(error) => return Err(self.end_reason(&error)),
                    }
                }
                () = sleep_until(limit) => {
                    if self.requested_at.is_some() {
                        let silent = Fault::timed_out(self.members.endpoint(self.member));
                        return Err(WatchError::Ended(silent.text));
                    }
                    if let Err(error) = self.stream.request_progress().await {
                        return Err(self.end_reason(&error));
                    }
                    self.requested_at = Some(Instant::now());
                }
            }
        }
    }

    fn end_reason(&self, error: &etcd_client::Error) -> WatchError {
        let fault = Fault::new(self.members.endpoint(self.member), error);
        match fault.fate {
            Fate::Compacted => WatchError::Compacted(self.batches.at),
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
                // The list and the watch that follow should not use this member.
                self.members.leave(self.member).await;
            }
            batch
        })
    }
}

/// Assembles batches: a revision may come in several fragments, and several in one response.
#[derive(Debug, Default)]
struct BatchAssembler {
    /// The last revision that is complete or being assembled.
    at: Revision,
    /// More of it may come.
    incomplete: Option<Batch>,
    complete: VecDeque<Batch>,
}

impl BatchAssembler {
    fn add(&mut self, message: WatchResponse) -> Result<(), WatchError> {
        let WatchResponse(message) = message;
        if message.compact_revision > 0 {
            return Err(WatchError::Compacted(self.at));
        }
        if message.canceled {
            return Err(WatchError::Ended(format!("etcd cancelled it: {}", message.cancel_reason)));
        }
        let newest = message.header.map_or(0, |header| unsigned(header.revision));
        if newest < self.at {
            return Err(WatchError::Ended(format!(
                "this member of etcd is at revision {newest}, before {}",
                self.at
            )));
        }
        for event in message.events {
            let Some(kv) = event.kv else { continue };
            let revision = unsigned(kv.mod_revision);
            let key = text(kv.key).map_err(|error| WatchError::Ended(error.to_string()))?;
            let change = (key, (event.r#type == PUT).then_some(kv.value));
            self.add_change(revision, change);
        }
        if !message.fragment {
            self.complete.extend(self.incomplete.take());
        }
        Ok(())
    }

    fn add_change(&mut self, revision: Revision, change: (String, Option<Vec<u8>>)) {
        if let Some(batch) = self.incomplete.as_mut().filter(|batch| batch.revision == revision) {
            batch.changes.push(change);
        } else if revision > self.at {
            self.complete.extend(self.incomplete.take());
            self.at = revision;
            self.incomplete = Some(Batch { revision, changes: vec![change] });
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
    fn a_batch_is_complete_when_the_next_revision_starts() {
        let mut batches = BatchAssembler { at: 4, ..BatchAssembler::default() };
        batches.add_change(5, change("a"));
        batches.add_change(5, change("b"));
        assert!(batches.complete.is_empty(), "more may come");
        batches.add_change(6, change("c"));
        let batch = batches.complete.pop_front().unwrap();
        assert_eq!((batch.revision, batch.changes.len()), (5, 2));
        assert!(batches.complete.is_empty());
        assert_eq!(batches.incomplete.as_ref().map(|batch| batch.revision), Some(6));
    }

    #[test]
    fn an_earlier_revision_is_ignored() {
        let mut batches = BatchAssembler { at: 4, ..BatchAssembler::default() };
        batches.add_change(4, change("a"));
        assert!(batches.incomplete.is_none());
    }
}

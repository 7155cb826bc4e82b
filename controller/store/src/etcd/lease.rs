//! A key under a lease: it is deleted soon after its holder is gone.

use std::{sync::Arc, time::Duration};

use etcd_client::PutOptions;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    error::{Fate, Fault},
    kv,
    members::{Members, Round},
};
use crate::{Advertisement, Boxed, CommitError};

/// Takes a lease and puts the key under it. Returns the lease's id, and the time to live that etcd grants.
pub(super) async fn put(
    members: &Members,
    key: String,
    value: Vec<u8>,
    ttl: Duration,
) -> Result<(i64, Duration), CommitError> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    // A lease that is granted without an answer expires.
    let granted =
        members.read(|client| async move { client.lease_client().grant(seconds, None).await });
    let granted = granted.await.map_err(Fault::into_commit)?;
    let lease = granted.id();
    let put = members.read(|client| {
        let options = PutOptions::new().with_lease(lease);
        let (mut kv, key, value) = (kv(&client), key.clone(), value.clone());
        async move { kv.put(key, value, Some(options)).await }
    });
    put.await.map_err(Fault::into_commit)?;
    Ok((lease, Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0)).max(ttl)))
}

/// The advertisement, and the task that renews its lease.
pub(super) fn hold(
    members: Arc<Members>,
    lease: i64,
    ttl: Duration,
) -> (EtcdAdvertisement, Renewer) {
    let dropped = CancellationToken::new();
    let (lost, receiver) = oneshot::channel();
    let advertisement = EtcdAdvertisement { dropped: dropped.clone(), lost: Some(receiver) };
    (advertisement, Renewer { members, lease, ttl, dropped, lost })
}

pub(super) struct EtcdAdvertisement {
    dropped: CancellationToken,
    /// `None` after it was received.
    lost: Option<oneshot::Receiver<()>>,
}

impl Advertisement for EtcdAdvertisement {
    fn lost(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            if let Some(lost) = &mut self.lost {
                // An error means that the task ended in another way.
                let _ = lost.await;
                self.lost = None;
            }
        })
    }
}

impl Drop for EtcdAdvertisement {
    fn drop(&mut self) {
        self.dropped.cancel();
    }
}

pub(super) struct Renewer {
    members: Arc<Members>,
    lease: i64,
    ttl: Duration,
    dropped: CancellationToken,
    lost: oneshot::Sender<()>,
}

impl Renewer {
    /// Renews the lease until the advertisement is dropped, the store closed, or the lease lost.
    pub(super) async fn run(self, closed: CancellationToken) {
        let lost = tokio::select! {
            reason = self.renew() => Some(reason),
            () = self.dropped.cancelled() => None,
            () = closed.cancelled() => None,
        };
        if let Some(reason) = lost {
            tracing::warn!(%reason, "the lease of an advertised key was lost");
            // It fails if nobody waits for it.
            let _ = self.lost.send(());
            return;
        }
        let lease = self.lease;
        let revoked = self
            .members
            .read(|client| async move { client.lease_client().revoke(lease).await.map(drop) });
        if let Err(fault) = revoked.await
            && fault.fate != Fate::NoLease
        {
            tracing::debug!(reason = %fault.text, "a lease was not revoked; it will expire");
        }
    }

    /// Renews three times in each time to live. Returns when the lease is lost, with the reason.
    async fn renew(&self) -> String {
        let mut round = Round::default();
        let mut renewed = Instant::now();
        let mut next = renewed + self.ttl / 3;
        loop {
            sleep_until(next).await;
            let started = Instant::now();
            let (member, lease) = (self.members.current(), self.lease);
            let attempt = self.members.attempt(member, |client| async move {
                client.lease_client().keep_alive(lease).await.map(drop)
            });
            match attempt.await {
                Ok(()) => {
                    renewed = started;
                    next = renewed + self.ttl / 3;
                }
                Err(fault) if fault.fate == Fate::NoLease => return fault.text,
                Err(fault) if renewed.elapsed() >= self.ttl => return fault.text,
                Err(_) => {
                    round.next(&self.members, member).await;
                    next = Instant::now();
                }
            }
        }
    }
}

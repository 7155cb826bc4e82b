//! Two hosts with one identity: one of them keeps the session, the other is told.

use std::{net::SocketAddr, time::Duration};

use cframe_pki::identity::Label;
use tokio::{sync::watch, time::timeout};

use super::{Order, Registry, Rival};

/// For the answer of the host that has the session, besides round trips, if the other one has the same address: most likely it is the same
/// host, and the process that had the session has died.
const SAME_ADDRESS_TIMEOUT: Duration = Duration::from_millis(300);
const OTHER_ADDRESS_TIMEOUT: Duration = Duration::from_millis(800);

/// With the round trips. An edge that waits leaves a silent controller after 6 s.
const MAX_TIMEOUT: Duration = Duration::from_secs(4);

/// Who wants a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) key: &'a (Label, Label),
    pub(crate) boot: [u8; 16],
    pub(crate) address: SocketAddr,
    /// Of the connection of the one who wants it; zero if that is with another controller.
    pub(crate) rtt: Duration,
    /// Unix seconds.
    pub(crate) now: u64,
    /// The session is with another controller. A process that moved from here has another address there, if the two
    /// are reached over different families.
    pub(crate) is_elsewhere: bool,
}

impl Registry {
    /// Whether a host may have a session. If another host has one, it is asked whether it is alive; if it is, it keeps the
    /// session, and the new host is recorded as its rival. The same process may always replace its own session.
    pub(crate) async fn admits(&self, claim: &Claim<'_>) -> bool {
        let Some((mut pongs, holder_rtt)) = self.ping_holder(claim) else { return true };
        let patience = match self.address_of(claim) {
            Some(address) if address.ip() == claim.address.ip() => SAME_ADDRESS_TIMEOUT,
            _ => OTHER_ADDRESS_TIMEOUT,
        };
        let wait = (patience + 3 * claim.rtt.max(holder_rtt)).min(MAX_TIMEOUT);
        // A closed channel means that the session has ended.
        let answered = timeout(wait, pongs.changed()).await;
        if !matches!(answered, Ok(Ok(()))) {
            return true;
        }
        self.record_rival(claim)
    }

    /// Has the other process with this identity pinged, if there is one with a session. Also returns the round-trip time
    /// to it.
    fn ping_holder(&self, claim: &Claim<'_>) -> Option<(watch::Receiver<u64>, Duration)> {
        let edges = self.lock();
        let edge = edges.get(&claim.key.0, &claim.key.1)?;
        let session = edge.session.as_ref()?;
        let same_address = edge.seen.address.ip() == claim.address.ip();
        let same = edge.seen.detail.boot == claim.boot && (same_address || claim.is_elsewhere);
        if same {
            return None;
        }
        let mut pongs = session.pongs.clone();
        pongs.mark_unchanged();
        // A full queue has a ping already, or the session is stuck.
        let _ = session.orders.try_send(Order::Ping);
        Some((pongs, session.rtt))
    }

    fn address_of(&self, claim: &Claim<'_>) -> Option<SocketAddr> {
        self.lock().get(&claim.key.0, &claim.key.1).map(|edge| edge.seen.address)
    }

    /// Returns true if the session has ended meanwhile.
    fn record_rival(&self, claim: &Claim<'_>) -> bool {
        let mut edges = self.lock();
        let (namespace, name) = claim.key;
        let edge = edges.namespaces.get_mut(namespace).and_then(|edges| edges.get_mut(name));
        let Some(edge) = edge.filter(|edge| edge.session.is_some()) else { return true };
        let rival = Rival { address: claim.address, at: claim.now };
        let known = edge.seen.detail.rival.replace(rival);
        let holder = edge.seen.address;
        drop(edges);
        if known.is_none_or(|known| known.address.ip() != claim.address.ip()) {
            tracing::warn!(
                %namespace, edge = %name, %holder, refused = %claim.address,
                "two hosts use the identity of this edge: the first keeps the session; stop one of them"
            );
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cframe_pki::{Fingerprint, Serial, verifier::PeerIdentity};
    use cframe_protocol::v1::{Problems, SessionDetail};

    use super::*;
    use crate::sessions::LastSeen;

    /// Whether another host gets the session of one that answers after this time, if its round trips take 400 ms.
    async fn admits(answers_after: Duration) -> bool {
        let (registry, address) = (Registry::default(), "192.0.2.1:1".parse().unwrap());
        let key: (Label, Label) = ("prod".parse().unwrap(), "idc".parse().unwrap());
        let peer = PeerIdentity {
            id: "spiffe://corp/ns/prod/edge/idc".parse().unwrap(),
            serial: Serial::from_bytes([1; 16]),
            spki: Fingerprint::from_bytes([1; 32]),
            issuer: None,
            not_before: 0,
            not_after: u64::MAX,
        };
        let seen = LastSeen {
            online: true,
            since: 1,
            software: String::new(),
            address,
            applied: None,
            links: Vec::new(),
            problems: Problems::default(),
            detail: SessionDetail { boot: [1; 16], ..SessionDetail::default() },
        };
        let mut holder = registry.enter(key.clone(), peer, seen, Arc::new(|| 1));
        holder.set_rtt(Duration::from_millis(400));
        let claim = Claim {
            key: &key,
            boot: [2; 16],
            address: "192.0.2.2:1".parse().unwrap(),
            rtt: Duration::ZERO,
            now: 1,
            is_elsewhere: true,
        };
        let answer = async {
            assert_eq!(holder.orders.recv().await, Some(Order::Ping));
            tokio::time::sleep(answers_after).await;
            holder.count_pong();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            admitted = registry.admits(&claim) => admitted,
            () = answer => unreachable!(),
        }
    }

    #[tokio::test]
    async fn a_host_far_away_has_the_round_trips_of_its_own_path_to_answer() {
        assert!(!admits(OTHER_ADDRESS_TIMEOUT + Duration::from_millis(400)).await);
        assert!(admits(MAX_TIMEOUT).await, "it does not answer in time");
    }
}

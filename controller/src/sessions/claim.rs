//! Two hosts with one identity: one of them keeps the session, the other is told.

use std::{net::SocketAddr, time::Duration};

use cframe_pki::identity::Label;
use tokio::{sync::watch, time::timeout};

use super::{Order, Registry, Rival};

/// For the answer of the host that has the session, if the other one has the same address: most likely it is the same
/// host, and the process that had the session has died.
const SAME_ADDRESS_TIMEOUT: Duration = Duration::from_millis(300);
const OTHER_ADDRESS_TIMEOUT: Duration = Duration::from_millis(800);

/// Who wants a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) key: &'a (Label, Label),
    pub(crate) boot: [u8; 16],
    pub(crate) address: SocketAddr,
    /// Of the connection.
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
        let Some(mut pongs) = self.ping_holder(claim) else { return true };
        let patience = match self.address_of(claim) {
            Some(address) if address.ip() == claim.address.ip() => SAME_ADDRESS_TIMEOUT,
            _ => OTHER_ADDRESS_TIMEOUT,
        };
        // A closed channel means that the session has ended.
        let answered = timeout(patience + 3 * claim.rtt, pongs.changed()).await;
        if !matches!(answered, Ok(Ok(()))) {
            return true;
        }
        self.record_rival(claim)
    }

    /// Has the other process with this identity pinged, if there is one with a session.
    fn ping_holder(&self, claim: &Claim<'_>) -> Option<watch::Receiver<u64>> {
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
        Some(pongs)
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

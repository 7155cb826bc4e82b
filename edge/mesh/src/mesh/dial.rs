//! Dialling peers: those without a link, and those whose link must be replaced by a new one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_pki::{identity::PeerIdentity, tls::SERVER_NAME};
use rand::RngExt;

use super::{Mesh, probing::SLOW};
use crate::{
    link::{Link, Phase},
    peer::{Refused, Renewal, Why},
    probe::Kind,
    timers::Key,
};

/// After this edge has moved, it waits one round trip plus this. What a dialled link receives later was
/// sent to the new address.
const MIGRATION_MARGIN: Duration = Duration::from_millis(20);
/// After a new certificate, all links are replaced within this time.
const RENEWAL_SPREAD: Duration = Duration::from_secs(20);
/// After a root was removed, new links to the peers below it are dialled within this time …
const REPLACE_SPREAD: Duration = Duration::from_secs(1);
/// … and the old links end after this time.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(5);

impl Mesh {
    /// Replaces the links of all peers for which `stale` is true: to be called after a root has
    /// left the trust bundle, for peers that showed a certificate below it. New links are dialled
    /// before the old ones end; a peer that has no other certificate keeps its link for a few
    /// seconds.
    pub fn replace_links(&mut self, now: Instant, stale: &mut dyn FnMut(&PeerIdentity) -> bool) {
        let stale: Vec<(usize, u32)> = self
            .links
            .iter()
            // A link that waits for the peer's hello too: the other side may already use it.
            .filter(|(_, link)| !matches!(link.phase, Phase::Handshaking | Phase::Closed))
            .filter(|(_, link)| link.certificate.identity.as_ref().is_some_and(&mut *stale))
            .filter_map(|(index, link)| Some((index, link.peer?)))
            .collect();
        for (index, peer) in stale {
            if let Some(link) = self.links.get_mut(index) {
                link.certificate.end_for_removed_root(now + REPLACE_TIMEOUT);
            }
            self.arm_link(index);
            let spread = REPLACE_SPREAD.mul_f64(self.rng.random());
            self.peers[peer].dialler.renew_at(now + spread, Renewal::Always);
            self.arm_peer(peer);
        }
    }

    /// The underlay address of this host changed. Only a QUIC client can move its end of a
    /// connection (RFC 9000 §9), so links that this edge dialled migrate, and peers whose link was
    /// accepted are dialled.
    pub fn local_address_changed(&mut self, now: Instant) {
        if self.quic.is_stopped() {
            return;
        }
        for index in self.peers.indices() {
            let peer = &mut self.peers[index];
            let current = peer.current.and_then(|at| Some((at, self.links.get_mut(at)?)));
            match current {
                None => peer.dialler.dial_at(now),
                Some((at, link)) if link.is_dialed() => {
                    link.conn.local_address_changed();
                    let settled = now + link.conn.rtt() + MIGRATION_MARGIN;
                    peer.dialler.renew_at(settled, Renewal::Migrating);
                    self.links.mark_ready(at);
                }
                Some(_) => peer.dialler.renew_at(now, Renewal::Always),
            }
            self.arm_peer(index);
        }
    }

    /// This edge has a new certificate: all links are replaced before the old one expires.
    pub fn credentials_renewed(&mut self, now: Instant) {
        if self.quic.is_stopped() {
            return;
        }
        for index in self.peers.indices() {
            let spread = RENEWAL_SPREAD.mul_f64(self.rng.random());
            let peer = &mut self.peers[index];
            let Some(link) = peer.current.and_then(|at| self.links.get(at)) else { continue };
            let expires = link.certificate.expires;
            let left = expires.map_or(spread, |at| at.saturating_duration_since(now) / 2);
            peer.dialler.renew_at(now + spread.min(left), Renewal::Always);
            self.arm_peer(index);
        }
    }

    /// Plans to replace a link well before one of its certificates expires. The peer renews its own
    /// long before; a link made after that lives longer.
    pub(super) fn schedule_renewal(&mut self, now: Instant, index: usize, peer: u32) {
        let Some(expires) = self.links.get(index).and_then(|link| link.certificate.expires) else {
            return;
        };
        let left = expires.saturating_duration_since(now);
        let margin = (left / 10).min(Duration::from_secs(3600));
        let early = margin.mul_f64(self.rng.random_range(1.0..2.0));
        self.peers[peer].dialler.renew_at(now + left.saturating_sub(early), Renewal::Always);
    }

    /// Dials the peer if it is time to.
    pub(super) fn dial(&mut self, now: Instant, index: u32) {
        self.peers[index].armed = None;
        if self.quic.is_stopped() {
            return;
        }
        self.record_lost_probes(now, index);
        let peer = &mut self.peers[index];
        let link = peer.current.and_then(|at| self.links.get(at));
        let received = link.map(|link| link.conn.stats().udp_rx.datagrams);
        let address = peer.dial(now, received, &mut self.rng);
        let (epoch, current) = (peer.dialler.epoch(), peer.current);
        let idle = peer.dialler.next_dial().is_none();
        if let (Some(current), true) = (current, idle) {
            self.schedule_renewal(now, current, index);
        }
        self.arm_peer(index);
        let Some(address) = address else { return };
        let (rtt, unmarked) = self.prepare_dial(now, index, address);
        match self.quic.endpoint.connect(now, self.quic.client(), address, SERVER_NAME) {
            Ok((handle, conn)) => {
                let mut link = Link::dialed(conn, index, epoch, now);
                link.outgoing.marked = !unmarked;
                link.extend_handshake(rtt);
                self.links.add(handle.0, link);
                self.service_link(now, handle.0);
            }
            Err(error) => {
                let peer = Some(self.peers[index].name.clone());
                let text = format!("cannot dial {address}: {error}");
                self.report_refusal(address, peer, Refused::us(Why::Protocol, text));
            }
        }
    }

    /// Uses what is known of an address, and probes it if earlier dials failed. Returns its round-trip
    /// time, and whether to dial without ECN marks.
    fn prepare_dial(&mut self, now: Instant, index: u32, address: SocketAddr) -> (Duration, bool) {
        let peer = &mut self.peers[index];
        if peer.current.is_some() {
            return (Duration::ZERO, peer.unmarked);
        }
        let dialled_before = peer.dialling.at(address).is_some();
        let attempt = peer.dialling.dialled(address);
        let (rtt, drops_marks) = (attempt.rtt.unwrap_or_default(), attempt.drops_marks());
        peer.unmarked |= drops_marks;
        let unmarked = peer.unmarked;
        if rtt >= SLOW {
            peer.dialler.postpone(now + 3 * rtt);
            self.arm_peer(index);
        }
        if dialled_before {
            self.probe(now, index, address, Kind::Small);
        }
        (rtt, unmarked)
    }

    /// Sets the timer for the peer's next dial.
    pub(super) fn arm_peer(&mut self, index: u32) {
        let peer = &mut self.peers[index];
        let at = peer.dialler.next_dial();
        self.timers.arm(Key::Peer(index), &mut peer.armed, at);
    }
}

//! Changes of the desired state: peers, prefixes, settings, and trust.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_pki::identity::{Label, PeerIdentity};
use ipnet::IpNet;

use super::{Mesh, WallClock};
use crate::{
    config::Congestion,
    link::{CloseCode, Link, Phase},
    peer::{Dialling, Down},
    verdict::Owner,
};

impl Mesh {
    /// Makes `name` a peer that can be dialled at `addresses`, in order of preference. A peer
    /// without addresses must dial this edge.
    pub fn set_peer(&mut self, now: Instant, name: &Label, addresses: Vec<SocketAddr>) {
        if *name == self.own.name || self.quic.is_stopped() {
            return;
        }
        let index = self.peers.find_or_add(name);
        let peer = &mut self.peers[index];
        if peer.member && peer.addresses == addresses {
            return;
        }
        let moved = peer.member && peer.current.is_some();
        if !peer.member {
            peer.down = Some(Down { since: now, timed_out: false });
        }
        peer.member = true;
        peer.addresses = addresses;
        if !moved {
            peer.dialler.dial_at(now);
            self.arm_peer(index);
        }
    }

    /// Removes a peer: its links close at once.
    pub fn remove_peer(&mut self, now: Instant, name: &Label) {
        let Some(index) = self.peers.find(name) else { return };
        let peer = &mut self.peers[index];
        peer.member = false;
        peer.addresses.clear();
        peer.last_remote = None;
        peer.dialling = Dialling::default();
        peer.dialler.stop();
        self.arm_peer(index);
        self.close_links(now, CloseCode::Removed, |link| link.peer == Some(index));
    }

    /// Sets the owner of a prefix, which may be this edge.
    pub fn set_prefix(&mut self, prefix: IpNet, owner: &Label) {
        let owner = if *owner == self.own.name {
            Owner::Own
        } else {
            Owner::Peer(self.peers.find_or_add(owner))
        };
        self.verdicts.insert(prefix, owner);
    }

    pub fn remove_prefix(&mut self, prefix: &IpNet) {
        self.verdicts.remove(prefix);
    }

    /// The TUN's MTU changed; `mtu` is in bytes. New links search for a path MTU that carries it
    /// whole.
    pub fn set_tun_mtu(&mut self, mtu: u16) {
        self.quic.set_tun_mtu(mtu);
    }

    /// Changes congestion control for new links.
    pub fn set_congestion(&mut self, congestion: Congestion) {
        self.quic.set_congestion(congestion);
    }

    /// Sets the wall clock: `unix` is the time since 1970 at `now`. Existing links keep their end
    /// on the monotonic clock.
    pub fn set_wall_clock(&mut self, now: Instant, unix: Duration) {
        self.clock = WallClock::new(now, unix);
    }

    /// Closes every link whose peer is not `allowed`: to be called after a change of the trust
    /// bundle or the deny-list. Handshakes under way start again: TLS may have accepted their peer
    /// by the old trust already.
    pub fn recheck(&mut self, now: Instant, allowed: &mut dyn FnMut(&PeerIdentity) -> bool) {
        let mut interrupted = Vec::new();
        self.close_links(now, CloseCode::Removed, |link| match &link.certificate.identity {
            Some(identity) => !allowed(identity),
            None => {
                interrupted.extend(link.peer);
                true
            }
        });
        for index in interrupted {
            self.peers[index].dialler.dial_at(now);
            self.arm_peer(index);
        }
    }

    pub(super) fn close_links(
        &mut self,
        now: Instant,
        code: CloseCode,
        mut which: impl FnMut(&Link) -> bool,
    ) {
        let open = self.links.iter().filter(|(_, link)| link.phase != Phase::Closed);
        let chosen: Vec<usize> =
            open.filter(|(_, link)| which(link)).map(|(index, _)| index).collect();
        for index in chosen {
            self.close_link(now, index, code);
        }
    }
}

//! Path probes: sent where dials fail, and answered for others.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use quinn_proto::{EcnCodepoint, Transmit};

use super::{Mesh, Received};
use crate::{
    link::{Link, Phase},
    peer::{Renewal, SendError},
    probe::{self, Kind, Token},
};

/// A path with a longer round trip than this is not dialled while a handshake may still succeed.
pub(super) const SLOW: Duration = Duration::from_secs(1);

impl Mesh {
    /// Handles a datagram that is a probe; false if it is none.
    #[inline]
    pub(super) fn handle_probe(&mut self, now: Instant, from: &Received, datagram: &[u8]) -> bool {
        match probe::parse(datagram) {
            None => return false,
            Some(probe::Received::Request(token)) => self.answer_probe(now, from, datagram, &token),
            Some(probe::Received::Answer(token)) => self.record_answer(now, &token),
        }
        true
    }

    fn answer_probe(&mut self, now: Instant, from: &Received, request: &[u8], token: &Token) {
        if let Some(own) = self.probes.finish(token) {
            if let Some(attempt) = self.peers[own.peer].dialling.at(own.remote) {
                attempt.leads_here = true;
            }
            return;
        }
        if self.quic.is_stopped() || !self.admissions.admit_probe(now) {
            return;
        }
        let marked = from.ecn.is_some();
        let src_ip = from.local_ip;
        self.queue_probe(from.remote, marked, src_ip, probe::answer(request));
    }

    /// Probes an address that was dialled in vain; the answer to a small probe is followed by large ones.
    pub(super) fn probe(&mut self, now: Instant, index: u32, remote: SocketAddr, kind: Kind) {
        let Some(bytes) = self.probes.start(now, (index, remote), kind, &mut self.rng) else {
            return;
        };
        self.queue_probe(remote, kind == Kind::Marked, None, bytes);
    }

    fn queue_probe(
        &mut self,
        destination: SocketAddr,
        marked: bool,
        src_ip: Option<IpAddr>,
        bytes: Vec<u8>,
    ) {
        let ecn = marked.then_some(EcnCodepoint::Ect0);
        let size = bytes.len();
        let transmit = Transmit { destination, ecn, size, segment_size: None, src_ip };
        self.quic.queue_response(transmit, bytes);
    }

    /// Counts the peer's probes that were lost.
    pub(super) fn record_lost_probes(&mut self, now: Instant, index: u32) {
        let dialling = &mut self.peers[index].dialling;
        let rtt = dialling.attempts.iter().filter_map(|attempt| attempt.rtt).max();
        for (remote, kind) in self.probes.newly_lost(now, index, rtt) {
            if let Some(attempt) = dialling.at(remote) {
                attempt.probed(kind).record_lost();
            }
        }
    }

    fn record_answer(&mut self, now: Instant, token: &Token) {
        let Some(answered) = self.probes.finish(token) else { return };
        let (index, remote, kind) = (answered.peer, answered.remote, answered.kind);
        let peer = &mut self.peers[index];
        let linked = peer.current.is_some();
        let Some(attempt) = peer.dialling.at(remote) else {
            // The link came up in the meantime; this asks whether the path takes marks again.
            if kind == Kind::Marked && peer.unmarked {
                peer.unmarked = false;
                peer.dialler.renew_at(now, Renewal::Always);
                self.arm_peer(index);
            }
            return;
        };
        attempt.probed(kind).record_answer();
        let rtt = now.saturating_duration_since(answered.sent);
        attempt.rtt = Some(rtt);
        if linked {
            return;
        }
        if kind == Kind::Small {
            self.probe(now, index, remote, Kind::Large);
            self.probe(now, index, remote, Kind::Marked);
        }
        if rtt >= SLOW {
            self.extend_handshakes(index, rtt);
            let peer = &mut self.peers[index];
            peer.dialler.postpone(now + 3 * rtt);
            self.arm_peer(index);
        }
    }

    /// Handshakes with the peer under way get the time that the path needs.
    fn extend_handshakes(&mut self, index: u32, rtt: Duration) {
        let of_peer = |link: &Link| {
            link.peer == Some(index)
                && matches!(link.phase, Phase::Handshaking | Phase::AwaitingHello)
        };
        let links: Vec<usize> =
            self.links.iter().filter(|(_, link)| of_peer(link)).map(|(at, _)| at).collect();
        for at in links {
            if let Some(link) = self.links.get_mut(at) {
                link.extend_handshake(rtt);
            }
            self.arm_link(at);
        }
    }

    /// The socket could not send to an address, which may be a peer's.
    pub fn handle_send_error(&mut self, remote: SocketAddr, error: SendError) {
        for index in self.peers.indices() {
            if let Some(attempt) = self.peers[index].dialling.at(remote) {
                attempt.send_error = Some(error);
            }
        }
    }
}

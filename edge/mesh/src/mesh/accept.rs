//! The first packets of strangers: accepted, asked to prove their address, or ignored.

use std::{net::IpAddr, time::Instant};

use bytes::BytesMut;
use quinn_proto::Incoming;

use super::Mesh;
use crate::{
    admission::{Admission, RETRY_FROM},
    counters::Reason,
    link::Link,
    peer::{Refused, Why},
};

/// Unfinished handshakes beyond which those from peers' addresses are ignored too.
const MAX_UNFINISHED_PEERS: usize = 2048;

impl Mesh {
    /// A copy of a handshake datagram, or `None` if this turn already had its share of them. It is
    /// a copy because quinn-proto keeps parts of it, which would keep the whole receive buffer
    /// alive.
    pub(super) fn admit_handshake_datagram(
        &mut self,
        now: Instant,
        datagram: &[u8],
    ) -> Option<BytesMut> {
        if !self.admissions.admit_datagram(now) {
            self.counters.drop(Reason::HandshakeRate);
            return None;
        }
        Some(BytesMut::from(datagram))
    }

    /// Decides about a new connection; the link's index if it is accepted. `marked`: its first packet had
    /// an ECN mark.
    pub(super) fn admit_connection(
        &mut self,
        now: Instant,
        incoming: Incoming,
        marked: bool,
    ) -> Option<usize> {
        let validated = incoming.remote_address_validated();
        let source = incoming.remote_address().ip();
        let mut admission = Admission::Ignore;
        if !self.quic.is_stopped() {
            admission = self.admissions.decide(now, source, validated, self.links.unfinished());
            // Peers are accepted where strangers are not.
            if admission == Admission::Ignore && validated && self.is_peer_address(source) {
                admission = Admission::Accept;
            }
        }
        match admission {
            Admission::Accept => self.accept(now, incoming, marked),
            Admission::Retry if incoming.may_retry() => {
                let mut response = Vec::new();
                if let Ok(transmit) = self.quic.endpoint.retry(incoming, &mut response) {
                    self.quic.queue_response(transmit, response);
                }
                None
            }
            Admission::Retry | Admission::Ignore => {
                self.counters.drop(Reason::HandshakeRate);
                self.quic.endpoint.ignore(incoming);
                None
            }
        }
    }

    /// Whether a peer is at this address, or was last seen there.
    fn is_peer_address(&self, source: IpAddr) -> bool {
        self.links.unfinished() < MAX_UNFINISHED_PEERS
            && self.peers.iter().any(|peer| peer.member && peer.is_at(source))
    }

    fn accept(&mut self, now: Instant, incoming: Incoming, marked: bool) -> Option<usize> {
        let remote = incoming.remote_address();
        let mut response = Vec::new();
        match self.quic.endpoint.accept(incoming, now, &mut response, None) {
            Ok((handle, conn)) => {
                let mut link = Link::accepted(conn, now);
                // A dialler without marks has found that the path drops packets that have them.
                link.outgoing.marked = marked;
                if self.links.unfinished() < RETRY_FROM {
                    link.allow_slow_handshake();
                }
                self.links.add(handle.0, link);
                Some(handle.0)
            }
            Err(error) => {
                self.report_refusal(remote, None, Refused::us(Why::Protocol, &error.cause));
                if let Some(transmit) = error.response {
                    self.quic.queue_response(transmit, response);
                }
                None
            }
        }
    }
}

//! How connections begin: a peer is dialled, a stranger is admitted.

use std::{net::IpAddr, time::Instant};

use bytes::BytesMut;
use cframe_pki::tls::SERVER_NAME;
use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, Incoming, Transmit};

use super::{Mesh, Received};
use crate::{admission::Admission, counters::Reason, link::Link};

/// Unfinished handshakes beyond which those from peers' addresses are ignored, too.
const MAX_UNFINISHED_PEERS: usize = 2048;
/// Datagrams with a long header (RFC 9000 §17.2) that are taken at one instant: in one turn of the
/// host's loop.
const MAX_GREETINGS: u32 = 32;
/// Answers of the endpoint that wait for the socket.
const MAX_RESPONSES: usize = 256;

impl Mesh {
    /// One UDP datagram: to the connection it belongs to, whose index is returned, or to nobody.
    pub(super) fn route_datagram(
        &mut self,
        now: Instant,
        from: &Received,
        datagram: BytesMut,
    ) -> Option<usize> {
        let has_long_header = datagram.first().is_some_and(|first| first & 0x80 != 0);
        let datagram = if has_long_header { self.greeting(now, &datagram)? } else { datagram };
        let mut answer = Vec::new();
        let event = self.endpoint.handle(
            now,
            from.remote,
            from.local_ip,
            from.ecn,
            datagram,
            &mut answer,
        )?;
        match event {
            DatagramEvent::ConnectionEvent(handle, event) => {
                self.pass(handle, event);
                Some(handle.0)
            }
            DatagramEvent::NewConnection(incoming) => self.admit(now, incoming),
            DatagramEvent::Response(transmit) => {
                self.respond(transmit, answer);
                None
            }
        }
    }

    /// A datagram of a handshake, if this turn has not had enough of them: each may cost as much as a
    /// hundred packets of data, and anybody can send them. It is a copy, because quinn-proto keeps
    /// parts of it, and they would keep all that was received with it.
    fn greeting(&mut self, now: Instant, datagram: &[u8]) -> Option<BytesMut> {
        let (turn, taken) = &mut self.greetings;
        if *turn != now {
            (*turn, *taken) = (now, 0);
        }
        *taken += 1;
        if *taken > MAX_GREETINGS {
            self.counters.drop(Reason::HandshakeRate);
            return None;
        }
        Some(BytesMut::from(datagram))
    }

    pub(super) fn pass(&mut self, handle: ConnectionHandle, event: ConnectionEvent) {
        if let Some(link) = self.links.get_mut(handle.0).and_then(Option::as_mut) {
            link.conn.handle_event(event);
        }
    }

    fn respond(&mut self, transmit: Transmit, mut bytes: Vec<u8>) {
        bytes.truncate(transmit.size);
        if self.responses.len() < MAX_RESPONSES {
            self.responses.push_back((transmit, bytes));
        }
    }

    fn admit(&mut self, now: Instant, incoming: Incoming) -> Option<usize> {
        let validated = incoming.remote_address_validated();
        let source = incoming.remote_address().ip();
        let verdict = if self.stopped {
            Admission::Ignore
        } else {
            self.admissions.decide(now, source, validated, self.unfinished)
        };
        // Peers are let in where strangers wait.
        let excepted =
            verdict == Admission::Ignore && validated && !self.stopped && self.is_peers(source);
        let verdict = if excepted { Admission::Accept } else { verdict };
        match verdict {
            Admission::Accept => self.accept(now, incoming),
            Admission::Retry if incoming.may_retry() => {
                let mut answer = Vec::new();
                if let Ok(transmit) = self.endpoint.retry(incoming, &mut answer) {
                    self.respond(transmit, answer);
                }
                None
            }
            Admission::Retry | Admission::Ignore => {
                self.counters.drop(Reason::HandshakeRate);
                self.endpoint.ignore(incoming);
                None
            }
        }
    }

    /// Whether a peer is, or was last seen, at this address.
    fn is_peers(&self, source: IpAddr) -> bool {
        self.unfinished < MAX_UNFINISHED_PEERS
            && self.peers.iter().any(|peer| peer.member && peer.is_at(source))
    }

    fn accept(&mut self, now: Instant, incoming: Incoming) -> Option<usize> {
        let remote = incoming.remote_address();
        let mut answer = Vec::new();
        match self.endpoint.accept(incoming, now, &mut answer, None) {
            Ok((handle, conn)) => {
                self.unfinished += 1;
                let mut link = Link::new(handle, conn, None, 0, now);
                link.unfinished = true;
                Some(self.add_link(link))
            }
            Err(error) => {
                self.refused(remote, None, format!("this edge: {}", error.cause));
                if let Some(transmit) = error.response {
                    self.respond(transmit, answer);
                }
                None
            }
        }
    }

    /// Dials the peer if it is time to.
    pub(super) fn dial(&mut self, now: Instant, index: u32) {
        let peer = &mut self.peers[index as usize];
        peer.armed = None;
        if self.stopped {
            return;
        }
        let link = peer.current.and_then(|at| self.links[at].as_ref());
        let heard = link.map(|link| link.conn.stats().udp_rx.datagrams);
        let address = peer.dial(now, heard, &mut self.rng);
        let (epoch, current) = (peer.epoch, peer.current);
        let idle = peer.next_dial().is_none();
        if let (Some(current), true) = (current, idle) {
            self.schedule_renewal(now, current, index);
        }
        self.arm_peer(index);
        let Some(address) = address else { return };
        match self.endpoint.connect(now, self.client.clone(), address, SERVER_NAME) {
            Ok((handle, conn)) => {
                let at = self.add_link(Link::new(handle, conn, Some(index), epoch, now));
                self.service(now, at);
            }
            Err(error) => {
                let peer = Some(self.peers[index as usize].name.clone());
                self.refused(address, peer, format!("this edge cannot dial {address}: {error}"));
            }
        }
    }

    fn add_link(&mut self, link: Link) -> usize {
        let index = link.handle.0;
        if self.links.len() <= index {
            self.links.resize_with(index + 1, || None);
        }
        self.links[index] = Some(Box::new(link));
        index
    }
}

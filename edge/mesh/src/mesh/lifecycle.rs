//! The life of a link after its first packet: accepted or refused, used, replaced, lost.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_pki::identity::{Label, PeerIdentity, Role};
use quinn_proto::{
    ConnectionError, ConnectionHandle, EndpointEvent, Event as QuicEvent, StreamEvent,
};
use rand::RngExt;

use super::{Event, Mesh};
use crate::{
    counters::Reason,
    link::{CloseCode, Hello, LINGER, Phase, describe, is_in_use, refusal},
    peer::{Contested, Dialling, Down, Refused, Why},
    timers::Key,
};

/// A link that lived shorter counts as a failed dial.
const MIN_LIFETIME: Duration = Duration::from_secs(2);
/// The smallest acceptable datagram in bytes: a little less than the smallest path MTU allows.
const MIN_DATAGRAM: usize = 1000;
/// A lost peer is dialled again after a random delay up to this, so that the dials of both ends
/// don't always collide.
const REDIAL_JITTER: Duration = Duration::from_millis(40);

impl Mesh {
    /// Handles a link's deadline: quinn-proto's, or the end of a phase.
    pub(super) fn link_timeout(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        link.armed = None;
        if link.conn.poll_timeout().is_some_and(|at| at <= now) {
            link.conn.handle_timeout(now);
        }
        match link.overdue(now) {
            None => {}
            Some(CloseCode::Slow) if link.phase == Phase::Contending => {
                self.decide_contest(now, index);
            }
            Some(code) => {
                self.record_failed_dial(index, None);
                self.close_link(now, index, code);
            }
        }
        self.service_link(now, index);
    }

    /// To be called after any input to a connection: handles its events, sets its timer, and lets
    /// it transmit.
    pub(super) fn service_link(&mut self, now: Instant, index: usize) {
        self.process_link_events(now, index);
        self.links.mark_ready(index);
    }

    /// Handles a connection's events and sets its timer; whether there were any events.
    pub(super) fn process_link_events(&mut self, now: Instant, index: usize) -> bool {
        let mut any = false;
        loop {
            let Some(link) = self.links.get_mut(index) else { return any };
            // A lost connection reports that before it is drained, and is removed once it is.
            if let Some(event) = link.conn.poll() {
                self.handle_link_event(now, index, event);
            } else if let Some(event) = link.conn.poll_endpoint_events() {
                self.handle_endpoint_event(index, event);
            } else {
                break;
            }
            any = true;
        }
        if let Some(link) = self.links.get_mut(index) {
            link.request_ack();
            link.update_largest_inner();
            self.links.update_in_flight(index);
            self.arm_link(index);
        }
        any
    }

    fn handle_endpoint_event(&mut self, index: usize, event: EndpointEvent) {
        let handle = ConnectionHandle(index);
        let drained = event.is_drained();
        if let Some(answer) = self.quic.endpoint.handle_event(handle, event) {
            self.handle_connection_event(handle, answer);
        }
        if drained && let Some(mut link) = self.links.remove(index) {
            self.timers.arm(Key::Link(index), &mut link.armed, None);
        }
    }

    fn handle_link_event(&mut self, now: Instant, index: usize, event: QuicEvent) {
        match event {
            QuicEvent::Connected => self.handle_connected(now, index),
            QuicEvent::ConnectionLost { reason } => self.handle_lost(now, index, &reason),
            QuicEvent::Stream(StreamEvent::Opened { .. } | StreamEvent::Readable { .. }) => {
                self.receive_hello(now, index);
            }
            QuicEvent::HandshakeDataReady
            | QuicEvent::Stream(_)
            | QuicEvent::DatagramReceived
            | QuicEvent::DatagramsUnblocked => {}
        }
    }

    /// The TLS handshake is done and its verifier has accepted the peer; now the desired state
    /// decides.
    fn handle_connected(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        if link.phase != Phase::Handshaking {
            return;
        }
        link.phase = Phase::AwaitingHello;
        let (remote, dialed) = (link.conn.remote_address(), link.peer);
        let identity =
            link.peer_identity().map_err(|error| Refused::us(Why::Protocol, error.to_string()));
        self.links.finish_handshake(index);
        let accepted =
            identity.and_then(|identity| Ok((self.authorize(&identity, dialed)?, identity)));
        match accepted {
            Ok((peer, identity)) => self.exchange_hello(now, index, peer, identity),
            Err(refused) => {
                let dialed = dialed.map(|peer| self.peers[peer].name.clone());
                self.record_failed_dial(index, Some(refused.clone()));
                self.report_refusal(remote, dialed, refused);
                self.close_link(now, index, CloseCode::NotAPeer);
            }
        }
    }

    /// The peer with this identity, if it is in the desired state and the one that was dialled.
    fn authorize(&self, identity: &PeerIdentity, dialed: Option<u32>) -> Result<u32, Refused> {
        let id = &identity.id;
        let Role::Edge { namespace, name } = &id.role else {
            return Err(Refused::us(Why::NotAPeer, format_args!("{id} is not an edge")));
        };
        if *namespace != self.own.namespace {
            return Err(Refused::us(Why::NotAPeer, format_args!("{id} is in another namespace")));
        }
        let Some(peer) = self.peers.find(name).filter(|&peer| self.peers[peer].member) else {
            let text = format_args!("{id} is not a peer in the desired state");
            return Err(match dialed {
                Some(dialed) if self.peers[dialed].name != *name => {
                    Refused::us(Why::Other(name.clone()), text)
                }
                Some(_) | None => Refused::us(Why::NotAPeer, text),
            });
        };
        match dialed.filter(|&dialed| dialed != peer) {
            Some(dialed) => {
                let dialed = &self.peers[dialed].name;
                let text = format_args!("{id} answered where {dialed} was dialled");
                Err(Refused::us(Why::Other(name.clone()), text))
            }
            None => Ok(peer),
        }
    }

    /// Sends our hello, and reads the peer's if it has arrived already.
    fn exchange_hello(&mut self, now: Instant, index: usize, peer: u32, identity: PeerIdentity) {
        let expires = self.clock.end_of(now, identity.not_after);
        let Some(link) = self.links.get_mut(index) else { return };
        link.peer = Some(peer);
        link.certificate.set(identity, expires);
        let accepted = !link.is_dialed();
        if accepted {
            link.hello.epoch = self.peers[peer].dialler.epoch();
        }
        if !link.hello.send(&mut link.conn, self.own.boot) {
            return self.close_link(now, index, CloseCode::Protocol);
        }
        // Of a peer's accepted links, only one at a time waits for its hello.
        let before = if accepted { self.peers[peer].awaiting_hello.replace(index) } else { None };
        if let Some(before) = before.filter(|&before| before != index)
            && self.links.get(before).is_some_and(|link| link.awaits_hello_of(peer))
        {
            self.close_link(now, before, CloseCode::Replaced);
        }
        self.receive_hello(now, index);
    }

    /// Reads the peer's hello, if it has arrived; then the link may be used.
    fn receive_hello(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        if link.phase != Phase::AwaitingHello {
            return;
        }
        match link.hello.receive(&mut link.conn) {
            Ok(None) => {}
            Ok(Some(hello)) => self.choose_link(now, index, hello),
            Err(reason) => {
                let remote = link.conn.remote_address();
                self.report_refusal(remote, None, Refused::us(Why::Protocol, reason));
                self.close_link(now, index, CloseCode::Protocol);
            }
        }
    }

    /// Decides whether the peer's current link or this new one is used.
    fn choose_link(&mut self, now: Instant, new: usize, hello: Hello) {
        let Some(link) = self.links.get(new) else { return };
        let Some(peer_index) = link.peer else { return };
        let peer = &self.peers[peer_index];
        let we_sort_first = self.own.name < peer.name;
        let rank = link.rank(we_sort_first);
        let current = peer.current.and_then(|at| Some((at, self.links.get(at)?)));
        let Some((old, current)) = current else {
            return self.bring_up(now, new, peer_index);
        };
        match current.hello.theirs {
            Some(theirs) if theirs.boot != hello.boot => {
                self.contest(now, old, new, peer_index);
            }
            Some(_) if current.rank(we_sort_first) > rank => self.retire(now, new),
            Some(_) | None => {
                self.bring_up(now, new, peer_index);
                self.retire(now, old);
            }
        }
    }

    pub(super) fn bring_up(&mut self, now: Instant, index: usize, peer_index: u32) {
        let Some(link) = self.links.get_mut(index) else { return };
        if link.conn.datagrams().max_size().is_none_or(|max| max < MIN_DATAGRAM) {
            return self.close_link(now, index, CloseCode::Protocol);
        }
        link.phase = Phase::Up;
        link.phase_end = None;
        link.since = now;
        let remote = link.conn.remote_address();
        let peer = &mut self.peers[peer_index];
        peer.current = Some(index);
        peer.last_remote = Some(remote);
        peer.dialler.stop();
        peer.down = None;
        peer.dialling = Dialling::default();
        self.arm_watch(now);
        let peer = &mut self.peers[peer_index];
        let event = Event::LinkUp { peer: peer.name.clone(), remote };
        self.schedule_renewal(now, index, peer_index);
        self.arm_peer(peer_index);
        self.events.push(event);
        // Handshakes that were started in case this one failed would only replace it.
        self.close_links(now, CloseCode::Replaced, |other| {
            other.is_dialed() && other.phase == Phase::Handshaking && other.peer == Some(peer_index)
        });
    }

    /// Sends nothing more on a link that was replaced, but still receives for [`LINGER`].
    fn retire(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links.get_mut(index) else { return };
        link.phase = Phase::Retired;
        link.phase_end = Some(now + LINGER);
        self.arm_link(index);
    }

    pub(super) fn close_link(&mut self, now: Instant, index: usize, code: CloseCode) {
        let Some(link) = self.links.get_mut(index) else { return };
        link.close(now, code);
        self.arm_link(index);
        self.links.mark_ready(index);
        self.detach_link(now, index, code.reason(), false);
    }

    /// Handles the end of a connection that quinn-proto gave up, or that the peer closed.
    fn handle_lost(&mut self, now: Instant, index: usize, reason: &ConnectionError) {
        let Some(link) = self.links.get_mut(index) else { return };
        let phase = link.phase;
        link.phase = Phase::Closed;
        link.phase_end = None;
        let (remote, peer) = (link.conn.remote_address(), link.peer);
        if let Some(peer) = peer.filter(|_| is_in_use(reason)) {
            self.peers[peer].contested = Some(Contested { at: now, refused: None });
        }
        if matches!(phase, Phase::Handshaking | Phase::AwaitingHello) {
            let refusal = refusal(reason);
            self.record_ended_dial(index, phase, refusal.clone());
            if let Some(refusal) = refusal {
                let peer = peer.map(|peer| self.peers[peer].name.clone());
                self.report_refusal(remote, peer, refusal);
            }
        }
        let timed_out = matches!(reason, ConnectionError::TimedOut);
        if let (Some(peer), true) = (peer, timed_out)
            && self.peers[peer].current == Some(index)
        {
            self.peers[peer].down = Some(Down { since: now, timed_out });
        }
        // A reset means that the peer has restarted and can be dialled.
        let restarted = matches!(reason, ConnectionError::Reset);
        self.detach_link(now, index, &describe(reason), restarted);
        if let Some(peer) = peer.filter(|_| is_in_use(reason)) {
            self.peers[peer].dialler.dial_after_refusal(now);
            self.arm_peer(peer);
        }
    }

    /// If the closed link was its peer's current one: empties the queue and dials the peer again.
    fn detach_link(&mut self, now: Instant, index: usize, reason: &str, restarted: bool) {
        let Some(link) = self.links.get(index) else { return };
        let Some(peer_index) = link.peer else { return };
        let peer = &mut self.peers[peer_index];
        if peer.current != Some(index) {
            return;
        }
        let since = link.since;
        peer.current = None;
        peer.down.get_or_insert(Down { since: now, timed_out: false });
        if self.promote_contender(now, peer_index) {
            return;
        }
        let peer = &mut self.peers[peer_index];
        self.counters.drop_many(Reason::NoLink, peer.queue.clear());
        if !self.quic.is_stopped() && peer.member {
            if !restarted && now.saturating_duration_since(since) < MIN_LIFETIME {
                peer.dialler.dial_after_failure(now);
            } else {
                let jitter = REDIAL_JITTER.mul_f64(self.rng.random());
                peer.dialler.dial_at(now + jitter);
            }
        }
        let event = Event::LinkDown { peer: peer.name.clone(), reason: reason.to_owned() };
        self.arm_peer(peer_index);
        self.events.push(event);
    }

    /// Remembers the peer's address, which changes when a NAT gives it a new port, or it roams.
    pub(super) fn record_remote(&mut self, index: usize) {
        let Some(link) = self.links.get(index) else { return };
        let (Some(peer), Phase::Up) = (link.peer, link.phase) else { return };
        self.peers[peer].last_remote = Some(link.conn.remote_address());
    }

    pub(super) fn report_refusal(
        &mut self,
        remote: SocketAddr,
        peer: Option<Label>,
        refused: Refused,
    ) {
        self.counters.drop(Reason::HandshakeRefused);
        self.events.push(Event::Refused { remote, peer, reason: refused.text });
    }

    /// Records that a dial has failed, or a handshake from a peer's address.
    fn record_failed_dial(&mut self, index: usize, refused: Option<Refused>) {
        let Some(phase) = self.links.get(index).map(|link| link.phase) else { return };
        self.record_ended_dial(index, phase, refused);
    }

    /// `phase`: before the link was closed.
    fn record_ended_dial(&mut self, index: usize, phase: Phase, refused: Option<Refused>) {
        let Some(link) = self.links.get(index) else { return };
        if !matches!(phase, Phase::Handshaking | Phase::AwaitingHello) {
            return;
        }
        let (remote, received) = (link.conn.remote_address(), link.received());
        match link.peer {
            Some(peer) if link.is_dialed() => {
                if let Some(attempt) = self.peers[peer].dialling.at(remote) {
                    attempt.record_failure(received, refused);
                }
            }
            Some(_) | None => {
                for index in self.peers.indices() {
                    let peer = &mut self.peers[index];
                    if peer.current.is_none() && peer.is_at(remote.ip()) {
                        peer.dialling.incoming_unfinished += 1;
                    }
                }
            }
        }
    }

    /// Sets the timer for the link's next deadline.
    pub(super) fn arm_link(&mut self, index: usize) {
        if let Some(link) = self.links.get_mut(index) {
            let at = link.deadline();
            self.timers.arm(Key::Link(index), &mut link.armed, at);
        }
    }
}

//! The life of links after their first packet: judged, used, replaced, lost.

use std::{
    mem,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_pki::identity::{PeerIdentity, Role};
use quinn_proto::{
    ConnectionError, ConnectionHandle, EndpointEvent, Event as QuicEvent, StreamEvent,
    TransportErrorCode,
};
use rand::RngExt;

use super::{Event, Mesh};
use crate::{
    counters::Reason,
    hello::Hello,
    link::{Code, LINGER, Phase},
    peer::Renew,
    timers::Key,
};

/// A link that lived shorter counts as a failure to make one.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// The least that a link must carry in a datagram: what the smallest path allows, or nearly.
const LEAST_DATAGRAM: usize = 1000;
/// A lost peer is dialled again after up to this long, so that two ends don't always collide.
const REDIAL_JITTER: Duration = Duration::from_millis(40);

impl Mesh {
    /// A link's time has come: quinn-proto's, or the end of a phase.
    pub(super) fn link_timeout(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links[index].as_mut() else { return };
        link.armed = None;
        if link.conn.poll_timeout().is_some_and(|at| at <= now) {
            link.conn.handle_timeout(now);
        }
        if link.phase != Phase::Closed {
            if link.expires.is_some_and(|at| at <= now) {
                let code = if link.outdated { Code::Removed } else { Code::Expired };
                self.close(now, index, code);
            } else if link.limit.is_some_and(|at| at <= now) {
                let code = if link.phase == Phase::Retired { Code::Replaced } else { Code::Slow };
                self.close(now, index, code);
            }
        }
        self.service(now, index);
    }

    /// After anything that a connection was given: takes what it has to tell, sets its deadline,
    /// and gives it its turn to transmit.
    pub(super) fn service(&mut self, now: Instant, index: usize) {
        self.settle(now, index);
        self.mark_ready(index);
    }

    /// Takes what a connection has to tell, and sets its deadline. True if there was anything.
    pub(super) fn settle(&mut self, now: Instant, index: usize) -> bool {
        let mut told = false;
        loop {
            let Some(link) = self.links[index].as_mut() else { return told };
            // A lost connection says so before it is drained, and is gone once it is.
            if let Some(event) = link.conn.poll() {
                self.link_event(now, index, event);
            } else if let Some(event) = link.conn.poll_endpoint_events() {
                self.endpoint_event(index, event);
            } else {
                break;
            }
            told = true;
        }
        if let Some(link) = self.links[index].as_mut() {
            link.ask();
            self.in_flight.count(link);
            link.largest_inner = link.conn.datagrams().max_size().unwrap_or(0);
            let at = link.deadline();
            self.timers.arm(Key::Link(index), &mut link.armed, at);
        }
        told
    }

    fn endpoint_event(&mut self, index: usize, event: EndpointEvent) {
        let handle = ConnectionHandle(index);
        let drained = event.is_drained();
        if let Some(answer) = self.endpoint.handle_event(handle, event) {
            self.pass(handle, answer);
        }
        // The endpoint gives the handle to the next connection.
        if drained && let Some(mut link) = self.links[index].take() {
            self.timers.arm(Key::Link(index), &mut link.armed, None);
            // Not before: quinn-proto keeps a connection that its very first packet closes until
            // the idle timeout, and a stranger may send many such packets.
            self.unfinished -= usize::from(link.unfinished);
            self.in_flight.forget(&link);
            self.ready.retain(|&other| other != index);
        }
    }

    fn link_event(&mut self, now: Instant, index: usize, event: QuicEvent) {
        match event {
            QuicEvent::Connected => self.connected(now, index),
            QuicEvent::ConnectionLost { reason } => self.lost(now, index, &reason),
            QuicEvent::Stream(StreamEvent::Opened { .. } | StreamEvent::Readable { .. }) => {
                self.greeted(now, index);
            }
            QuicEvent::HandshakeDataReady
            | QuicEvent::Stream(_)
            | QuicEvent::DatagramReceived
            | QuicEvent::DatagramsUnblocked => {}
        }
    }

    /// The handshake is done: TLS has accepted the peer; now it must be one that is wanted.
    fn connected(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links[index].as_mut() else { return };
        if link.phase != Phase::Handshaking {
            return;
        }
        if mem::take(&mut link.unfinished) {
            self.unfinished -= 1;
        }
        link.phase = Phase::Greeting;
        let remote = link.conn.remote_address();
        match link.peer_identity().map_err(|error| error.to_string()).and_then(|identity| {
            let peer = self.wanted(index, &identity)?;
            Ok((peer, identity))
        }) {
            Ok((peer, identity)) => self.greet(now, index, peer, identity),
            Err(reason) => {
                let meant = self.links[index].as_ref().and_then(|link| link.peer);
                let meant = meant.map(|peer| self.peers[peer as usize].name.clone());
                self.refused(remote, meant, format!("this edge: {reason}"));
                self.close(now, index, Code::NotAPeer);
            }
        }
    }

    /// The peer of this identity, if it may have this link.
    fn wanted(&self, index: usize, identity: &PeerIdentity) -> Result<u32, String> {
        let id = &identity.id;
        let Role::Edge { namespace, name } = &id.role else {
            return Err(format!("{id} is not an edge"));
        };
        if *namespace != self.namespace {
            return Err(format!("{id} is of another namespace"));
        }
        let known = self.peer_index.get(name).copied();
        let Some(peer) = known.filter(|&peer| self.peers[peer as usize].member) else {
            return Err(format!("{id} is not a peer in the desired state"));
        };
        let meant = self.links[index].as_ref().and_then(|link| link.peer);
        match meant.filter(|&meant| meant != peer) {
            Some(meant) => {
                let meant = &self.peers[meant as usize].name;
                Err(format!("{id} answered where {meant} was dialled"))
            }
            None => Ok(peer),
        }
    }

    fn greet(&mut self, now: Instant, index: usize, peer: u32, identity: PeerIdentity) {
        let expires = self.instant_of(now, identity.not_after);
        let Some(link) = self.links[index].as_mut() else { return };
        link.peer = Some(peer);
        link.identity = Some(identity);
        link.expires = Some(expires);
        if !link.dialed {
            link.epoch = self.peers[peer as usize].epoch;
        }
        let hello = Hello { boot: self.boot, epoch: link.epoch };
        let accepted = !link.dialed;
        if link.greet(hello).is_err() {
            return self.close(now, index, Code::Protocol);
        }
        // A peer has one accepted link at a time that waits for its hello.
        let before =
            if accepted { self.peers[peer as usize].greeting.replace(index) } else { None };
        if let Some(before) = before.filter(|&before| before != index && self.greets(before, peer))
        {
            self.close(now, before, Code::Replaced);
        }
        self.greeted(now, index);
    }

    /// Whether this is an accepted link of `peer` that waits for the peer's hello.
    fn greets(&self, index: usize, peer: u32) -> bool {
        self.links[index].as_ref().is_some_and(|link| {
            link.phase == Phase::Greeting && !link.dialed && link.peer == Some(peer)
        })
    }

    /// When a certificate's last second ends, on the monotonic clock.
    fn instant_of(&self, now: Instant, not_after: u64) -> Instant {
        let (at, unix) = self.wall;
        let unix = unix + now.saturating_duration_since(at);
        let left = Duration::from_secs(not_after.saturating_add(1)).saturating_sub(unix);
        // Some clocks cannot tell times that are centuries away.
        const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);
        now + left.min(FAR)
    }

    /// The peer's hello may have arrived: then the link is up.
    fn greeted(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links[index].as_mut() else { return };
        if link.phase != Phase::Greeting {
            return;
        }
        match link.read_hello() {
            Ok(None) => {}
            Ok(Some(hello)) => self.judge(now, index, hello),
            Err(reason) => {
                let remote = link.conn.remote_address();
                self.refused(remote, None, format!("this edge: {reason}"));
                self.close(now, index, Code::Protocol);
            }
        }
    }

    /// Decides which of the peer's links is used.
    fn judge(&mut self, now: Instant, index: usize, hello: Hello) {
        let Some(link) = self.links[index].as_ref() else { return };
        let Some(peer_index) = link.peer else { return };
        let peer = &self.peers[peer_index as usize];
        let we_sort_first = self.name < peer.name;
        let rank = link.rank(we_sort_first);
        let current = peer.current.and_then(|at| self.links[at].as_ref());
        match current.map(|current| (current.handle.0, current.theirs, current.rank(we_sort_first)))
        {
            Some((_, Some(theirs), best)) if theirs.boot == hello.boot && best > rank => {
                self.retire(now, index);
            }
            Some((old, theirs, _)) => {
                self.promote(now, index, peer_index);
                if theirs.is_some_and(|theirs| theirs.boot != hello.boot) {
                    // Nobody is there any more.
                    self.close(now, old, Code::Replaced);
                } else {
                    self.retire(now, old);
                }
            }
            None => self.promote(now, index, peer_index),
        }
    }

    fn promote(&mut self, now: Instant, index: usize, peer_index: u32) {
        let Some(link) = self.links[index].as_mut() else { return };
        if link.conn.datagrams().max_size().is_none_or(|max| max < LEAST_DATAGRAM) {
            return self.close(now, index, Code::Protocol);
        }
        link.phase = Phase::Up;
        link.limit = None;
        link.since = now;
        let remote = link.conn.remote_address();
        let peer = &mut self.peers[peer_index as usize];
        peer.current = Some(index);
        peer.last_remote = Some(remote);
        peer.stop_dialling();
        let event = Event::LinkUp { peer: peer.name.clone(), remote };
        self.schedule_renewal(now, index, peer_index);
        self.arm_peer(peer_index);
        self.event(event);
        // Handshakes that were begun in case this one failed would only replace it.
        self.close_links(now, Code::Replaced, |other| {
            other.dialed && other.phase == Phase::Handshaking && other.peer == Some(peer_index)
        });
    }

    /// Links end with their certificates. The peer renews its own long before; a link made after
    /// that lives longer.
    pub(super) fn schedule_renewal(&mut self, now: Instant, index: usize, peer_index: u32) {
        let Some(expires) = self.links[index].as_ref().and_then(|link| link.expires) else {
            return;
        };
        let left = expires.saturating_duration_since(now);
        let margin = (left / 10).min(Duration::from_secs(3600));
        let early = margin.mul_f64(self.rng.random_range(1.0..2.0));
        self.peers[peer_index as usize].renew_at(now + left.saturating_sub(early), Renew::Always);
    }

    fn retire(&mut self, now: Instant, index: usize) {
        let Some(link) = self.links[index].as_mut() else { return };
        link.phase = Phase::Retired;
        link.limit = Some(now + LINGER);
        let at = link.deadline();
        self.timers.arm(Key::Link(index), &mut link.armed, at);
    }

    /// Closes a link from this side.
    pub(super) fn close(&mut self, now: Instant, index: usize, code: Code) {
        let Some(link) = self.links[index].as_mut() else { return };
        link.close(now, code);
        let at = link.deadline();
        self.timers.arm(Key::Link(index), &mut link.armed, at);
        self.mark_ready(index);
        self.gone(now, index, code.reason(), false);
    }

    /// quinn-proto has given a connection up, or the peer closed it.
    fn lost(&mut self, now: Instant, index: usize, reason: &ConnectionError) {
        let Some(link) = self.links[index].as_mut() else { return };
        let before = link.phase;
        link.phase = Phase::Closed;
        link.limit = None;
        let remote = link.conn.remote_address();
        if let (Phase::Handshaking | Phase::Greeting, Some(refusal)) = (before, refusal(reason)) {
            let meant = link.peer.map(|peer| self.peers[peer as usize].name.clone());
            self.refused(remote, meant, refusal);
        }
        // A reset is a restart: the peer is there, and waits to be dialled.
        let restarted = matches!(reason, ConnectionError::Reset);
        self.gone(now, index, &describe(reason), restarted);
    }

    /// What follows when a link is no more.
    fn gone(&mut self, now: Instant, index: usize, reason: &str, restarted: bool) {
        let Some(link) = self.links[index].as_ref() else { return };
        let Some(peer_index) = link.peer else { return };
        let peer = &mut self.peers[peer_index as usize];
        if peer.current != Some(index) {
            return;
        }
        peer.current = None;
        self.counters.drop_many(Reason::NoLink, peer.queue.clear());
        if !self.stopped && peer.member {
            if !restarted && now.saturating_duration_since(link.since) < SHORT_LIFE {
                peer.dial_after_failure(now);
            } else {
                let jitter = REDIAL_JITTER.mul_f64(self.rng.random());
                peer.dial_at(now + jitter);
            }
        }
        let event = Event::LinkDown { peer: peer.name.clone(), reason: reason.to_owned() };
        self.arm_peer(peer_index);
        self.event(event);
    }

    /// Queues the link for [`Mesh::poll_transmit`].
    pub(super) fn mark_ready(&mut self, index: usize) {
        if let Some(link) = self.links[index].as_mut()
            && !link.ready
        {
            link.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Where a peer is, after its link moved (a NAT gave it a new port, or it roamed).
    pub(super) fn note_remote(&mut self, index: usize) {
        let Some(link) = self.links[index].as_ref() else { return };
        let (Some(peer), Phase::Up) = (link.peer, link.phase) else { return };
        let remote: SocketAddr = link.conn.remote_address();
        self.peers[peer as usize].last_remote = Some(remote);
    }
}

/// Why a handshake ended, where one side turned the other away; not where nobody answered.
fn refusal(reason: &ConnectionError) -> Option<String> {
    match reason {
        ConnectionError::TransportError(error) => Some(format!("this edge: {error}")),
        // Closed in mid-handshake for a reason that only an established connection may carry: the
        // peer had no more use for it.
        ConnectionError::ConnectionClosed(close)
            if close.error_code != TransportErrorCode::APPLICATION_ERROR =>
        {
            Some(format!("the peer: {close}"))
        }
        ConnectionError::ApplicationClosed(close) if Code::refuses(close.error_code) => {
            Some(format!("the peer: {close}"))
        }
        ConnectionError::VersionMismatch => Some("no QUIC version in common".to_owned()),
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::CidsExhausted
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed => None,
    }
}

fn describe(reason: &ConnectionError) -> String {
    match reason {
        ConnectionError::TimedOut => "the peer fell silent".to_owned(),
        ConnectionError::Reset => "the peer has forgotten the link (restarted)".to_owned(),
        ConnectionError::ApplicationClosed(close) => format!("the peer: {close}"),
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::CidsExhausted
        | ConnectionError::LocallyClosed => reason.to_string(),
    }
}

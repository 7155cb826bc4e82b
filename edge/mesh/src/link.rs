//! One QUIC connection to a peer, from its first packet to its end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cframe_packet::fragment::Reassembler;
use cframe_pki::{
    CertificateDer,
    identity::{CertificateIdentityError, PeerIdentity},
};
use quinn_proto::{Connection, VarInt};

use crate::{congestion::InFlight, transport::MIN_MTU};

mod checks;
mod close;
mod hello;
mod outgoing;

pub use checks::PathQuality;
pub(crate) use checks::{Checks, SUSPECT_INTERVAL};
pub(crate) use close::{CloseCode, describe, is_in_use, refusal};
pub(crate) use hello::Hello;

use hello::HelloExchange;
use outgoing::Outgoing;

/// Time for a handshake and the peer's hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// The same for a dialler that may be far away, while there are few handshakes.
const SLOW_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(25);
/// No path is waited for longer.
const MAX_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a replaced link still receives, for packets that are under way on it.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// The largest inner packet in bytes: the largest MTU that a TUN may have.
pub(crate) const MAX_INNER: usize = 1500;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Until the TLS handshake is done and the peer is known.
    Handshaking,
    /// Until the peer's hello arrives. In TLS 1.3 a client finishes before the server has verified
    /// it.
    AwaitingHello,
    /// Belongs to another process than the current link, which is asked for a sign of life.
    Contending,
    /// Carries traffic.
    Up,
    /// Replaced by another link; only receives.
    Retired,
    /// Closed; quinn-proto still answers late packets.
    Closed,
}

// fields: the parts of a link's state.
pub(crate) struct Link {
    pub(crate) conn: Connection,
    pub(crate) phase: Phase,
    /// When the handshake times out, or a retired link closes.
    pub(crate) phase_end: Option<Instant>,
    /// When the link came up; before that, when it was created.
    pub(crate) since: Instant,
    /// Counts as an unfinished handshake: accepted, and under way, or failed and not drained.
    pub(crate) unfinished: bool,
    /// Known from the start if this edge dialled, otherwise from the certificate.
    pub(crate) peer: Option<u32>,
    pub(crate) certificate: PeerCertificate,
    pub(crate) hello: HelloExchange,
    pub(crate) outgoing: Outgoing,
    pub(crate) checks: Checks,
    pub(crate) reassembler: Reassembler,
    pub(crate) traffic: Traffic,
    acked: Acked,
    /// The link's entry in the timers.
    pub(crate) armed: Option<Instant>,
}

/// When the peer last acknowledged something.
#[derive(Clone, Copy, Debug)]
struct Acked {
    /// The largest packet number acknowledged, or the number of ACK frames.
    count: u64,
    /// When that was last seen to change.
    at: Instant,
}

/// The certificate that the peer showed. Each side closes the link when the other's certificate
/// expires.
#[derive(Default)]
pub(crate) struct PeerCertificate {
    pub(crate) identity: Option<PeerIdentity>,
    /// When the link must end, on the monotonic clock.
    pub(crate) expires: Option<Instant>,
    /// Whether the link ends earlier because the certificate's root is not trusted any more.
    root_removed: bool,
}

/// Inner packets of one link.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    pub sent: u64,
    pub sent_bytes: u64,
    /// Packets received and accepted.
    pub received: u64,
    pub received_bytes: u64,
    /// Packets sent in fragments.
    pub fragmented: u64,
}

impl Link {
    /// `epoch` is the one in our hello.
    pub(crate) fn dialed(conn: Connection, peer: u32, epoch: u64, now: Instant) -> Self {
        let mut link = Self::new(conn, now);
        link.peer = Some(peer);
        link.hello.epoch = epoch;
        link
    }

    pub(crate) fn accepted(conn: Connection, now: Instant) -> Self {
        let mut link = Self::new(conn, now);
        link.unfinished = true;
        link
    }

    fn new(mut conn: Connection, now: Instant) -> Self {
        Self {
            outgoing: Outgoing::new(&mut conn, now),
            conn,
            phase: Phase::Handshaking,
            phase_end: Some(now + HANDSHAKE_TIMEOUT),
            since: now,
            unfinished: false,
            peer: None,
            certificate: PeerCertificate::default(),
            hello: HelloExchange::default(),
            checks: Checks::default(),
            reassembler: Reassembler::new(MAX_INNER),
            traffic: Traffic::default(),
            acked: Acked { count: 0, at: now },
            armed: None,
        }
    }

    /// The path has this round-trip time: the handshake needs two, and more if packets are lost.
    pub(crate) fn extend_handshake(&mut self, rtt: Duration) {
        let end = self.since + (4 * rtt).clamp(HANDSHAKE_TIMEOUT, MAX_HANDSHAKE_TIMEOUT);
        self.phase_end = self.phase_end.map(|at| at.max(end));
    }

    pub(crate) fn allow_slow_handshake(&mut self) {
        self.phase_end = Some(self.since + SLOW_HANDSHAKE_TIMEOUT);
    }

    /// UDP datagrams received.
    pub(crate) fn received(&self) -> u64 {
        self.conn.stats().udp_rx.datagrams
    }

    /// When the peer last acknowledged something, as far as this was looked at.
    pub(crate) fn acked(&self) -> Instant {
        self.acked.at.max(self.since)
    }

    /// Looks whether the peer has acknowledged something since the last look.
    pub(crate) fn update_acked(&mut self, now: Instant) -> Instant {
        // ACK frames also repeat what they have said before, so they are only the second choice.
        let acked = self.in_flight().acked.map(u64::from);
        let count = acked.unwrap_or_else(|| self.conn.stats().frame_rx.acks);
        if count != self.acked.count {
            self.acked = Acked { count, at: now };
        }
        self.acked()
    }

    pub(crate) fn is_dialed(&self) -> bool {
        self.conn.side().is_client()
    }

    /// The identity in the certificate that TLS has verified.
    pub(crate) fn peer_identity(&self) -> Result<PeerIdentity, CertificateIdentityError> {
        let chain = self.conn.crypto_session().peer_identity();
        let chain = chain.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        PeerIdentity::from_chain(chain.as_deref().map_or(&[], Vec::as_slice))
    }

    /// Whether this is an accepted link of `peer` that waits for the peer's hello.
    pub(crate) fn awaits_hello_of(&self, peer: u32) -> bool {
        self.phase == Phase::AwaitingHello && !self.is_dialed() && self.peer == Some(peer)
    }

    /// Of two links between the same two processes the one with the higher rank is used: the later
    /// dial, and of simultaneous dials that of the edge whose name sorts first. Both sides have
    /// both hellos and get the same result.
    pub(crate) fn rank(&self, we_sort_first: bool) -> (u64, bool, u64) {
        let ours = self.hello.epoch;
        let theirs = self.hello.theirs.map_or(0, |hello| hello.epoch);
        let dialler = if self.is_dialed() { ours } else { theirs };
        (ours.saturating_add(theirs), self.is_dialed() == we_sort_first, dialler)
    }

    pub(crate) fn in_flight(&self) -> InFlight {
        InFlight::of(self.conn.congestion_state())
    }

    /// Requests an acknowledgement from the peer if none came for long; it corrects the count of
    /// the bytes in flight.
    pub(crate) fn request_ack(&mut self) {
        let needed = self.in_flight().needs_ack();
        if needed && !self.outgoing.ack_requested {
            self.conn.ping();
        }
        self.outgoing.ack_requested = needed;
    }

    /// Looks what became of the checks of the path, and queues more if it is time to. Returns whether it did.
    pub(crate) fn check_path(&mut self, now: Instant) -> bool {
        let path = self.conn.stats().path;
        self.checks.update(now, path.rtt, path.lost_packets)
    }

    /// Hands the next check, or an answer to one, to quinn-proto if it has nothing else to send: each goes in a packet
    /// of its own, so that one loss is not counted several times. Returns whether it did.
    #[inline]
    pub(crate) fn send_check(&mut self, now: Instant) -> bool {
        if !self.checks.wants_to_send() || !self.outgoing.is_empty(&mut self.conn) {
            return false;
        }
        // As large as fits into the smallest packet that every path must carry.
        let beyond = self.conn.stats().path.current_mtu.saturating_sub(MIN_MTU);
        let full = self.outgoing.largest_inner.saturating_sub(usize::from(beyond));
        let check = self.checks.next(now, full);
        check.is_some_and(|check| self.conn.datagrams().send(check.into(), false).is_ok())
    }

    pub(crate) fn update_largest_inner(&mut self) {
        self.outgoing.largest_inner = self.conn.datagrams().max_size().unwrap_or(0);
    }

    pub(crate) fn close(&mut self, now: Instant, code: CloseCode) {
        self.phase = Phase::Closed;
        self.phase_end = None;
        let reason = Bytes::from_static(code.reason().as_bytes());
        self.conn.close(now, VarInt::from_u32(code as u32), reason);
    }

    /// Why the link must be closed at `now`, if it must.
    pub(crate) fn overdue(&self, now: Instant) -> Option<CloseCode> {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.phase == Phase::Closed {
            return None;
        }
        if passed(self.certificate.expires) {
            return Some(self.certificate.close_code());
        }
        let code = if self.phase == Phase::Retired { CloseCode::Replaced } else { CloseCode::Slow };
        passed(self.phase_end).then_some(code)
    }

    /// The earliest time at which quinn-proto or [`Self::overdue`] has something to do.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let expires = self.certificate.expires.filter(|_| self.phase != Phase::Closed);
        [self.conn.poll_timeout(), self.phase_end, expires].into_iter().flatten().min()
    }
}

impl PeerCertificate {
    pub(crate) fn set(&mut self, identity: PeerIdentity, expires: Instant) {
        self.identity = Some(identity);
        self.expires = Some(expires);
    }

    /// The link ends at `limit` at the latest, because the certificate's root was removed.
    pub(crate) fn end_for_removed_root(&mut self, limit: Instant) {
        self.root_removed = true;
        self.expires = Some(self.expires.map_or(limit, |at| at.min(limit)));
    }

    fn close_code(&self) -> CloseCode {
        if self.root_removed { CloseCode::Removed } else { CloseCode::Expired }
    }
}

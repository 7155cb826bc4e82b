//! One QUIC connection to a peer, from its first packet to its end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cframe_packet::fragment::Reassembler;
use cframe_pki::{
    CertificateDer,
    identity::{CertificateIdentityError, PeerIdentity},
};
use quinn_proto::{Connection, ConnectionHandle, Dir, ReadError, StreamId, VarInt};

use crate::{
    config::MIN_MTU,
    congestion::InFlight,
    hello::{Hello, Reader},
};

/// A handshake, hello included, that takes longer is given up.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(4);
/// The largest inner packet in bytes: the largest MTU a TUN may have.
pub(crate) const MAX_INNER: usize = 1500;
/// Inner packets up to this fit every path, whatever surrounds them.
const SMALL: usize = 1100;
/// How often a small packet goes by itself among large ones. Four of these and a round trip are what
/// it takes to notice that a path has shrunk.
const SMALL_EVERY: Duration = Duration::from_millis(250);
/// How long a replaced link is still listened to: what is under way on it arrives.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Application error codes of `cframe-mesh/1`, the reason that the other side is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Code {
    /// The edge stops.
    Shutdown = 0,
    /// A newer link to the same peer is in use.
    Replaced = 1,
    /// The peer is not in this edge's desired state (yet).
    NotAPeer = 2,
    /// The peer was removed or revoked.
    Removed = 3,
    /// The certificate of one side expired.
    Expired = 4,
    /// The peer broke the protocol.
    Protocol = 5,
    /// The handshake took too long.
    Slow = 6,
}

impl Code {
    /// Whether a peer that closes with this code turns us away, rather than this one connection.
    pub(crate) fn refuses(code: VarInt) -> bool {
        [Self::NotAPeer, Self::Removed, Self::Expired, Self::Protocol]
            .iter()
            .any(|refusal| VarInt::from_u32(*refusal as u32) == code)
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "the edge stops",
            Self::Replaced => "replaced by a newer link",
            Self::NotAPeer => "not a peer in the desired state",
            Self::Removed => "removed or revoked",
            Self::Expired => "a certificate expired",
            Self::Protocol => "protocol error",
            Self::Slow => "the handshake took too long",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Until the TLS handshake is done and the peer is known.
    Handshaking,
    /// Until the peer's hello: in TLS 1.3 a client is done before the server has judged it.
    Greeting,
    /// Carries traffic.
    Up,
    /// Listens only.
    Retired,
    /// Closed; quinn-proto still answers stragglers.
    Closed,
}

pub(crate) struct Link {
    pub(crate) handle: ConnectionHandle,
    pub(crate) conn: Connection,
    pub(crate) dialed: bool,
    pub(crate) phase: Phase,
    /// Whether it counts as an unfinished handshake: accepted, and not finished before it is gone.
    pub(crate) unfinished: bool,
    /// Known from the start where this edge dialled, else from the certificate.
    pub(crate) peer: Option<u32>,
    pub(crate) identity: Option<PeerIdentity>,
    /// The epoch in our hello.
    pub(crate) epoch: u64,
    pub(crate) theirs: Option<Hello>,
    pub(crate) since: Instant,
    /// End of the phase: of the handshake, or of the lingering.
    pub(crate) limit: Option<Instant>,
    /// When the peer's certificate expires, on the monotonic clock. The peer watches ours.
    pub(crate) expires: Option<Instant>,
    /// Whether it ends sooner, because the root above the peer's certificate is not trusted any more.
    pub(crate) outdated: bool,
    /// The link's entry in the timers.
    pub(crate) armed: Option<Instant>,
    /// Whether it waits for its turn to transmit.
    pub(crate) ready: bool,
    /// Largest inner packet that one datagram carries whole.
    pub(crate) largest_inner: usize,
    /// Its part of what is in flight on all links, when it was last counted.
    pub(crate) counted: u64,
    /// Whether the peer was asked for an acknowledgement.
    asked: bool,
    /// What quinn-proto takes ahead of sending when it holds nothing, in bytes.
    empty: usize,
    /// Whether a packet was handed over that a path may be too small for, and when the next
    /// small one is to follow such.
    large: bool,
    next_small: Instant,
    pub(crate) reassembler: Reassembler,
    pub(crate) traffic: Traffic,
    incoming: Option<StreamId>,
    reader: Reader,
}

/// Inner packets of one link.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Packets sent.
    pub sent: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received and accepted.
    pub received: u64,
    /// Bytes received and accepted.
    pub received_bytes: u64,
    /// Packets that left in fragments.
    pub fragmented: u64,
}

impl Link {
    pub(crate) fn new(
        handle: ConnectionHandle,
        mut conn: Connection,
        peer: Option<u32>,
        epoch: u64,
        now: Instant,
    ) -> Self {
        Self {
            empty: conn.datagrams().send_buffer_space(),
            dialed: conn.side().is_client(),
            handle,
            conn,
            phase: Phase::Handshaking,
            unfinished: false,
            peer,
            identity: None,
            epoch,
            theirs: None,
            since: now,
            limit: Some(now + HANDSHAKE_LIMIT),
            expires: None,
            outdated: false,
            armed: None,
            ready: false,
            largest_inner: 0,
            counted: 0,
            asked: false,
            large: false,
            next_small: now,
            reassembler: Reassembler::new(MAX_INNER),
            traffic: Traffic::default(),
            incoming: None,
            reader: Reader::default(),
        }
    }

    /// Who the handshake has shown the peer to be.
    pub(crate) fn peer_identity(&self) -> Result<PeerIdentity, CertificateIdentityError> {
        let chain = self.conn.crypto_session().peer_identity();
        let chain = chain.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        PeerIdentity::from_chain(chain.as_deref().map_or(&[], Vec::as_slice))
    }

    /// Says hello, on the one stream that each side opens.
    pub(crate) fn greet(&mut self, hello: Hello) -> Result<(), &'static str> {
        let stream = self.conn.streams().open(Dir::Uni).ok_or("the peer takes no hello")?;
        let written = self.conn.send_stream(stream).write(&hello.encode());
        match written {
            Ok(len) if len == crate::hello::LEN => Ok(()),
            Ok(_) | Err(_) => Err("the peer takes no whole hello"),
        }
    }

    /// Reads what has arrived of the peer's hello; it is returned once.
    pub(crate) fn read_hello(&mut self) -> Result<Option<Hello>, &'static str> {
        if self.incoming.is_none() {
            self.incoming = self.conn.streams().accept(Dir::Uni);
        }
        let (Some(stream), None) = (self.incoming, self.theirs) else { return Ok(None) };
        let mut recv = self.conn.recv_stream(stream);
        let mut chunks = recv.read(true).map_err(|_| "its hello cannot be read")?;
        let result = loop {
            match chunks.next(crate::hello::LEN) {
                Ok(Some(chunk)) => match self.reader.push(&chunk.bytes) {
                    Ok(None) => {}
                    done => break done,
                },
                Err(ReadError::Blocked) => break Ok(None),
                Ok(None) | Err(ReadError::Reset(_)) => break Err("its hello ends too early"),
            }
        };
        let _ = chunks.finalize();
        self.theirs = result?;
        Ok(self.theirs)
    }

    /// Which of two links between the same two boots is used: the later dial, and among
    /// simultaneous ones that of the edge whose name sorts first. Both sides have both hellos and
    /// come to the same answer.
    pub(crate) fn rank(&self, we_sort_first: bool) -> (u64, bool, u64) {
        let theirs = self.theirs.map_or(0, |hello| hello.epoch);
        let dialler = if self.dialed { self.epoch } else { theirs };
        (self.epoch.saturating_add(theirs), self.dialed == we_sort_first, dialler)
    }

    /// What it has in flight.
    pub(crate) fn in_flight(&self) -> InFlight {
        InFlight::of(self.conn.congestion_state())
    }

    /// Asks the peer for an acknowledgement if none came for long, by which the count of what is in
    /// flight becomes exact.
    pub(crate) fn ask(&mut self) {
        let wanted = self.in_flight().wants_answer();
        if wanted && !self.asked {
            self.conn.ping();
        }
        self.asked = wanted;
    }

    /// Notes that a packet of `len` bytes was handed over.
    pub(crate) fn handed_over(&mut self, len: usize) {
        self.large |= len > SMALL;
    }

    /// Whether a small packet is to leave by itself now; it is asked for then.
    ///
    /// A path that swallows large packets is found out by what is acknowledged after them. Probe
    /// time-outs would see to that, but every packet puts them off (RFC 9002 §6.2.1): a steady
    /// stream of large packets alone would go into the black hole for ever.
    pub(crate) fn small_one_first(&mut self, now: Instant) -> bool {
        let due = self.large && now >= self.next_small;
        if !due || self.conn.datagrams().send_buffer_space() < self.empty {
            return false;
        }
        self.large = false;
        self.next_small = now + SMALL_EVERY;
        self.conn.ping();
        true
    }

    /// Datagrams of the path's size in one UDP payload for the kernel to cut (`UDP_SEGMENT`).
    pub(crate) fn segments_that_fit(&self) -> usize {
        const MAX_UDP_PAYLOAD: usize = 65_507;
        const OVERHEAD: usize = 64;
        (MAX_UDP_PAYLOAD / (self.largest_inner + OVERHEAD).max(usize::from(MIN_MTU))).max(1)
    }

    pub(crate) fn close(&mut self, now: Instant, code: Code) {
        self.phase = Phase::Closed;
        self.limit = None;
        let reason = Bytes::from_static(code.reason().as_bytes());
        self.conn.close(now, VarInt::from_u32(code as u32), reason);
    }

    /// The next time at which something is to be done.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let expires = self.expires.filter(|_| self.phase != Phase::Closed);
        [self.conn.poll_timeout(), self.limit, expires].into_iter().flatten().min()
    }
}

//! What was seen while a peer had no link.

use std::{net::SocketAddr, time::Duration};

use cframe_pki::identity::Label;

use crate::probe::Kind;

/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 16;

/// What was seen since the peer last had a link.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Dialling {
    /// By address, in the order of the dials.
    pub attempts: Vec<Attempt>,
    /// Handshakes from one of the peer's addresses that stopped before this edge knew the peer.
    pub incoming_unfinished: u32,
}

/// What was seen at one address.
// fields: independent observations, each with its own source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attempt {
    pub remote: SocketAddr,
    /// Dials that ended without a link.
    pub failed: u32,
    /// UDP datagrams that the last of these dials received.
    pub answers: u64,
    /// How the last of these dials was refused, if it was.
    pub refusal: Option<Refused>,
    /// Probes of 48 bytes, of 1,200 bytes, and of 1,200 bytes that are marked for ECN.
    pub small: Probed,
    pub large: Probed,
    pub marked: Probed,
    /// Measured with probes.
    pub rtt: Option<Duration>,
    /// A probe came back as a request: the address leads to this edge itself.
    pub leads_here: bool,
    /// The last error of the socket when it sent to this address.
    pub send_error: Option<SendError>,
}

/// Probes of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Probed {
    pub answered: u32,
    /// Lost since the last answer.
    pub lost: u32,
}

/// Which side refused a handshake, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    pub by: Side,
    pub why: Why,
    /// As it is logged.
    pub text: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    Us,
    Peer,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Why {
    /// A TLS alert (RFC 8446 §6), as a rule about the certificate.
    Tls(u8),
    /// Another edge answered, with this name.
    Other(Label),
    /// The other is not in the desired state.
    NotAPeer,
    /// Another host with the same identity has a link that works.
    InUse,
    /// Anything else; see the text.
    Protocol,
}

/// Why the socket could not send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendError {
    /// Larger than a device of this host allows.
    TooLarge,
    /// No route.
    Unreachable,
    /// A firewall of this host.
    NotPermitted,
}

impl Dialling {
    pub(crate) fn at(&mut self, remote: SocketAddr) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| attempt.remote == remote)
    }

    /// The record of an address that is dialled.
    pub(crate) fn dialled(&mut self, remote: SocketAddr) -> &mut Attempt {
        let found = self.attempts.iter().position(|attempt| attempt.remote == remote);
        let index = found.unwrap_or_else(|| {
            if self.attempts.len() >= MAX_ADDRESSES {
                self.attempts.remove(0);
            }
            self.attempts.push(Attempt::new(remote));
            self.attempts.len() - 1
        });
        &mut self.attempts[index]
    }

    /// Forgets addresses that are not dialled any more.
    pub(crate) fn retain(&mut self, candidates: &[SocketAddr]) {
        self.attempts.retain(|attempt| candidates.contains(&attempt.remote));
    }
}

impl Attempt {
    /// Nothing is known of this address yet.
    #[must_use]
    pub fn new(remote: SocketAddr) -> Self {
        let none = Probed::default();
        Self {
            remote,
            failed: 0,
            answers: 0,
            refusal: None,
            small: none,
            large: none,
            marked: none,
            rtt: None,
            leads_here: false,
            send_error: None,
        }
    }

    pub(crate) fn record_failure(&mut self, answers: u64, refusal: Option<Refused>) {
        self.failed = self.failed.saturating_add(1);
        self.answers = answers;
        self.refusal = refusal;
    }

    pub(crate) fn probed(&mut self, kind: Kind) -> &mut Probed {
        match kind {
            Kind::Small => &mut self.small,
            Kind::Large => &mut self.large,
            Kind::Marked => &mut self.marked,
        }
    }

    /// Small datagrams pass both ways, and those of 1,200 bytes do not.
    #[must_use]
    pub fn is_too_narrow(&self) -> bool {
        self.small.passes() && self.large.fails()
    }

    /// Datagrams pass both ways unless they are marked for ECN.
    #[must_use]
    pub fn drops_marks(&self) -> bool {
        self.large.passes() && self.marked.fails()
    }
}

impl Probed {
    pub(crate) fn record_answer(&mut self) {
        self.answered = self.answered.saturating_add(1);
        self.lost = 0;
    }

    pub(crate) fn record_lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
    }

    /// Whether answers arrive.
    #[must_use]
    pub fn passes(self) -> bool {
        self.answered > 0 && self.lost < 3
    }

    /// Whether no answers arrive.
    #[must_use]
    pub fn fails(self) -> bool {
        self.lost >= 2
    }
}

impl Refused {
    pub(crate) fn us(why: Why, text: impl std::fmt::Display) -> Self {
        Self { by: Side::Us, why, text: format!("this edge: {text}") }
    }

    pub(crate) fn peer(why: Why, text: impl std::fmt::Display) -> Self {
        Self { by: Side::Peer, why, text: format!("the peer: {text}") }
    }
}

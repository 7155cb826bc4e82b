//! Events for the host's log and its reports.

use std::{collections::VecDeque, net::SocketAddr};

use cframe_pki::identity::Label;

/// Events are for people; a flood of refused handshakes must not fill the memory with them.
const MAX_EVENTS: usize = 4096;

/// What a host logs and reports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A link to this peer is up, or was replaced. `remote` is the peer's address on the underlay.
    LinkUp { peer: Label, remote: SocketAddr },
    /// There is no link to this peer any more.
    LinkDown { peer: Label, reason: String },
    /// A handshake failed because one side refused the other; `reason` says which one, and why.
    Refused {
        remote: SocketAddr,
        /// The peer that was dialled; `None` if the other side dialled.
        peer: Option<Label>,
        reason: String,
    },
}

#[derive(Debug, Default)]
pub(super) struct EventQueue(VecDeque<Event>);

impl EventQueue {
    pub(super) fn push(&mut self, event: Event) {
        if self.0.len() < MAX_EVENTS {
            self.0.push_back(event);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

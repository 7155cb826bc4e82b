//! What a session has to tell.

use std::{collections::VecDeque, mem::discriminant, net::SocketAddr, sync::Arc};

use super::SessionError;
use crate::v1::{CallError, Desired, Enrolled, GoodbyeReason};

/// What happens in an edge's session.
#[derive(Debug)]
pub enum Event {
    /// A session stands.
    Connected {
        /// The controller's address.
        controller: SocketAddr,
    },
    /// There is a new state, whole. To be applied, and acknowledged with
    /// [`Command::Ack`](super::Command::Ack).
    Desired(Arc<Desired>),
    /// The answer to [`Command::Renew`](super::Command::Renew).
    RenewReply(Result<Enrolled, CallError>),
    /// The certificate is to be renewed now.
    RenewNow,
    /// The controller ends the session.
    Goodbye(GoodbyeReason),
    /// A session has ended, or an attempt at one. The next attempt follows by itself.
    Disconnected(SessionError),
}

/// Events that wait for a reader. The session never waits for it: a later event takes the place of
/// an earlier one of its kind, so that there is one of each at most.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<Event>);

impl Outbox {
    pub(super) fn push(&mut self, event: Event) {
        self.0.retain(|earlier| discriminant(earlier) != discriminant(&event));
        self.0.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_finds_the_newest_state_and_no_queue() {
        let mut outbox = Outbox::default();
        for namespace in 1..=100 {
            let mut state = Desired::default();
            state.version.namespace = namespace;
            outbox.push(Event::Disconnected(SessionError::Silent));
            outbox.push(Event::Desired(Arc::new(state)));
        }
        assert!(matches!(outbox.pop(), Some(Event::Disconnected(_))));
        assert!(matches!(outbox.pop(), Some(Event::Desired(s)) if s.version.namespace == 100));
        assert!(outbox.is_empty());
    }
}

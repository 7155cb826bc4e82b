//! Events of an edge's session.

use std::{collections::VecDeque, mem::discriminant, net::SocketAddr, sync::Arc};

use super::SessionError;
use crate::v1::{CallError, Desired, Enrolled, GoodbyeReason};

#[derive(Debug)]
pub enum Event {
    Connected {
        controller: SocketAddr,
    },
    /// A new whole state. The edge applies it and acknowledges it with
    /// [`Command::Ack`](super::Command::Ack).
    Desired(Arc<Desired>),
    /// The answer to [`Command::Renew`](super::Command::Renew).
    RenewReply(Result<Enrolled, CallError>),
    /// The edge should renew its certificate now.
    RenewNow,
    Goodbye(GoodbyeReason),
    /// A session, or an attempt at one, has ended. The next attempt follows.
    Disconnected(SessionError),
}

/// Events that wait for their reader. An event replaces an earlier one of its kind, so that there is at
/// most one of each and the session never waits.
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
    fn a_slow_reader_gets_the_newest_state_and_no_queue() {
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

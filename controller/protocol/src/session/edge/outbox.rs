//! Events of an edge's session.

use std::{collections::VecDeque, mem::discriminant, net::SocketAddr, sync::Arc};

use super::SessionError;
use crate::{
    desired::Delta,
    v1::{CallError, Desired, Enrolled, GoodbyeReason},
};

#[derive(Debug)]
pub enum Event {
    Connected {
        controller: SocketAddr,
    },
    /// A new whole state. The edge applies it and acknowledges it with
    /// [`Command::Ack`](super::Command::Ack).
    Desired {
        /// The whole state.
        state: Arc<Desired>,
        /// What has changed since the last of these events; `None` for a snapshot.
        delta: Option<Delta>,
    },
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
    pub(super) fn push(&mut self, mut event: Event) {
        let same = |earlier: &Event| discriminant(earlier) == discriminant(&event);
        if let Some(earlier) = self.0.iter().position(same).and_then(|index| self.0.remove(index))
            && let (Event::Desired { delta: first, .. }, Event::Desired { delta, .. }) =
                (earlier, &mut event)
            && let Some(second) = delta.take()
        {
            // The reader gets both at once. After a snapshot that it has not read, it needs a snapshot.
            *delta = first.and_then(|first| first.then(second.changes));
        }
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
    use crate::v1::{Change, Version};

    #[test]
    fn a_slow_reader_gets_the_newest_state_and_no_queue() {
        let mut outbox = Outbox::default();
        for namespace in 1..=100 {
            let mut state = Desired::default();
            state.version.namespace = namespace;
            outbox.push(Event::Disconnected(SessionError::Silent));
            outbox.push(Event::Desired { state: Arc::new(state), delta: None });
        }
        assert!(matches!(outbox.pop(), Some(Event::Disconnected(_))));
        assert!(
            matches!(outbox.pop(), Some(Event::Desired { state, .. }) if state.version.namespace == 100)
        );
        assert!(outbox.is_empty());
    }

    /// What a reader finds that reads nothing until all of these deltas were pushed; the first of them may be a
    /// snapshot.
    fn unread(deltas: Vec<Option<Delta>>) -> Option<Delta> {
        let mut outbox = Outbox::default();
        for delta in deltas {
            outbox.push(Event::Desired { state: Arc::default(), delta });
        }
        match outbox.pop() {
            Some(Event::Desired { delta, .. }) if outbox.is_empty() => delta,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn deltas_that_nobody_has_read_become_one_and_a_snapshot_stays_a_snapshot() {
        let from = |namespace| Version { namespace, ..Version::default() };
        let delta = |namespace: u64, count: usize| {
            let change = Change::EdgeGone { name: format!("e{namespace}").parse().unwrap() };
            Some(Delta { from: from(namespace), changes: vec![change; count] })
        };
        let both = unread(vec![delta(1, 1), delta(2, 2)]).unwrap();
        assert_eq!((both.from, both.changes.len()), (from(1), 3));
        assert_eq!(unread(vec![None, delta(2, 1)]), None);
        assert_eq!(unread(vec![delta(1, 1), None]), None);
        assert_eq!(unread(vec![delta(1, 8_000), delta(2, 8_000)]), None, "too many to go through");
    }
}

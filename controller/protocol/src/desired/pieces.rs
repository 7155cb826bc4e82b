//! Cutting changes into updates.

use std::iter::Peekable;

use cframe_pki::bundle::DenyEntry;

use crate::{
    frame::{BUDGET, seq_cost},
    v1::{Change, Endpoint, Update, Version},
};

/// Per update. The list itself takes less than half of the budget.
const MAX_CHANGES: usize = 128;
/// Bytes that the changes of one update may take besides their list.
const ROOM: usize = BUDGET - seq_cost(MAX_CHANGES, size_of::<Change>());

/// Cuts changes into one or more updates that fit frames and the other end's [`BUDGET`]. The last one is
/// marked.
///
/// `from` is the version that the changes apply to, `None` for the empty state; `to` is the version after
/// them: `updates(Some(a.version), b.version, a.diff(&b))`, or for a snapshot
/// `updates(None, b.version, Desired::default().diff(&b))`.
///
/// A change that is too large by itself, such as a trust bundle of more than 20 KiB, makes an update that
/// [`encode`](crate::frame::encode) or the other end refuses.
pub fn updates<C: IntoIterator<Item = Change>>(
    from: Option<Version>,
    to: Version,
    changes: C,
) -> Updates<C::IntoIter> {
    Updates { changes: changes.into_iter().peekable(), from, to, done: false }
}

/// See [`updates`].
#[derive(Debug)]
pub struct Updates<I: Iterator<Item = Change>> {
    changes: Peekable<I>,
    from: Option<Version>,
    to: Version,
    done: bool,
}

impl<I: Iterator<Item = Change>> Iterator for Updates<I> {
    type Item = Update;

    fn next(&mut self) -> Option<Update> {
        if self.done {
            return None;
        }
        let mut changes: Vec<Change> = self.changes.next().into_iter().collect();
        let mut weight: usize = changes.iter().map(weigh).sum();
        while let Some(change) = self.changes.next_if(|change| {
            weight += weigh(change);
            weight <= ROOM && changes.len() < MAX_CHANGES
        }) {
            changes.push(change);
        }
        self.done = self.changes.peek().is_none();
        Some(Update { from: self.from, to: self.to, changes, last: self.done })
    }
}

/// Bytes that a change takes besides its place in the list: at least what the budget is charged, and at
/// least its bytes on the wire beyond the size of [`Change`].
fn weigh(change: &Change) -> usize {
    const TEXT: usize = 32;
    let endpoints = |count: usize, text: usize| seq_cost(count, size_of::<Endpoint>()) + text;
    let endpoint = |endpoint: &Endpoint| TEXT + endpoint.as_str().len();
    match change {
        Change::Settings(_) | Change::PrefixGone { .. } => 0,
        Change::Trust(trust) => {
            let roots: usize = trust.roots.iter().map(|der| seq_cost(der.len(), 1)).sum();
            seq_cost(trust.roots.len(), 24) + roots + seq_cost(trust.revoked_issuers.len(), 32)
        }
        Change::Controllers(all) => endpoints(all.len(), all.iter().map(endpoint).sum()),
        Change::Denied(DenyEntry { id, .. }) | Change::NotDenied(DenyEntry { id, .. }) => {
            4 * TEXT + 2 * id.to_string().len()
        }
        Change::Edge { name, state } => {
            let all = &state.endpoints;
            let text = all.iter().map(endpoint).sum();
            TEXT + name.as_str().len() + endpoints(all.len(), text)
        }
        Change::EdgeGone { name } => TEXT + name.as_str().len(),
        Change::Prefix { owner, .. } => TEXT + owner.as_str().len(),
    }
}

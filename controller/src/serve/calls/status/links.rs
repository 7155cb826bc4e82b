//! Counting links.

use cframe_pki::identity::Label;

use crate::model::Namespace;

pub(super) fn pairs(edges: usize) -> usize {
    edges * edges.saturating_sub(1) / 2
}

/// The links of a namespace that are up. Both ends report a link, and it counts once: a bit for each pair of edges, as a
/// thousand edges have half a million pairs.
pub(super) struct LinkSet<'a> {
    /// Sorted.
    names: Vec<&'a Label>,
    /// The place after the peer that was found last: edges report their links in order, and there may be a million.
    next: usize,
    bits: Vec<u64>,
}

impl<'a> LinkSet<'a> {
    pub(super) fn among(space: &'a Namespace) -> Self {
        let names: Vec<&Label> = space.edges.keys().collect();
        let words = pairs(names.len()).div_ceil(64);
        Self { names, next: 0, bits: vec![0; words] }
    }

    /// Adds what one end reports. A peer that was removed is ignored.
    pub(super) fn insert(&mut self, edge: usize, peer: &Label) {
        let Some(peer) = self.number(peer).filter(|peer| *peer != edge) else { return };
        // The bits before those of a number are the pairs of all smaller numbers.
        let bit = pairs(edge.max(peer)) + edge.min(peer);
        if let Some(word) = self.bits.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    fn number(&mut self, name: &Label) -> Option<usize> {
        let number = if self.names.get(self.next) == Some(&name) {
            self.next
        } else {
            self.names.binary_search(&name).ok()?
        };
        self.next = number + 1;
        Some(number)
    }

    pub(super) fn count(&self) -> u32 {
        self.bits.iter().map(|word| word.count_ones()).sum()
    }
}

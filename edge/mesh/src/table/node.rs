//! A tree bitmap (Eatherton, Varghese, Dittia: "Tree Bitmap", CCR 34(2), 2004) with path
//! compression.
//!
//! A node resolves six bits of the address: it contains the prefixes that end before the sixth, and
//! the subtrees after it. A subtree with one prefix is a leaf, and nodes with only one subtree are
//! left out; leaves and nodes store their own path. Tables of sites are sparse, those of IPv6 above
//! all, and the speed of a large table depends on how few cache lines a lookup reads.

use std::{iter, mem};

use super::bitmap::Bitmap;

/// Bits that one node resolves.
const STRIDE: u8 = 6;

#[derive(Debug, Clone)]
pub(super) struct Node<B, T> {
    /// The prefixes that end here, by [`slot`].
    values: Bitmap<T>,
    /// The subtrees, by their next six bits.
    children: Bitmap<Child<B, T>>,
    /// The bits that lead here, followed by zeros.
    path: B,
    /// The number of bits in `path`, a multiple of [`STRIDE`].
    depth: u8,
}

#[derive(Debug, Clone)]
enum Child<B, T> {
    /// The only prefix of a subtree. Its fields are not in a type of their own, because the
    /// variant's tag then fits between them.
    Leaf {
        bits: B,
        len: u8,
        value: T,
    },
    Node(Box<Node<B, T>>),
}

/// The bits of an address; the first bit is the highest.
pub(super) trait Bits: Copy {
    const NONE: Self;
    /// The six bits that start at `depth`; zeros after the end.
    fn chunk(self, depth: u8) -> u8;
    /// The length of the common prefix of both.
    fn common(self, other: Self) -> u8;
    /// The first `len` bits.
    fn truncate(self, len: u8) -> Self;
    /// Adds six bits at `depth`, where there must be zeros.
    fn with(self, chunk: u8, depth: u8) -> Self;
}

impl<B: Bits, T: Copy> Node<B, T> {
    pub(super) fn root() -> Self {
        Self::new(B::NONE, 0)
    }

    fn new(bits: B, depth: u8) -> Self {
        let path = bits.truncate(depth);
        Self { values: Bitmap::default(), children: Bitmap::default(), path, depth }
    }

    #[inline]
    pub(super) fn lookup(&self, address: B) -> Option<T> {
        let mut best = None;
        let mut node = self;
        loop {
            let chunk = address.chunk(node.depth);
            best = node.values.last_of(COVERING[usize::from(chunk)]).or(best);
            match node.children.find(chunk) {
                Some(Child::Leaf { bits, len, value }) if address.common(*bits) >= *len => {
                    return Some(*value);
                }
                Some(Child::Node(child)) if address.common(child.path) >= child.depth => {
                    node = child
                }
                _ => return best.copied(),
            }
        }
    }

    pub(super) fn exact(&self, bits: B, len: u8) -> Option<T> {
        let chunk = bits.chunk(self.depth);
        if self.contains_len(len) {
            return self.values.find(slot(chunk, len - self.depth)).copied();
        }
        match self.children.find(chunk)? {
            child if !child.leads_to(bits, len) => None,
            Child::Leaf { len: found, value, .. } => (*found == len).then_some(*value),
            Child::Node(node) => node.exact(bits, len),
        }
    }

    pub(super) fn insert(&mut self, bits: B, len: u8, value: T) -> Option<T> {
        let chunk = bits.chunk(self.depth);
        if self.contains_len(len) {
            return self.values.insert(slot(chunk, len - self.depth), value);
        }
        if let Some(child) = self.children.find_mut(chunk) {
            return child.insert(bits, len, value);
        }
        self.children.insert(chunk, Child::Leaf { bits, len, value });
        None
    }

    pub(super) fn remove(&mut self, bits: B, len: u8) -> Option<T> {
        let chunk = bits.chunk(self.depth);
        if self.contains_len(len) {
            return self.values.remove(slot(chunk, len - self.depth));
        }
        match self.children.find_mut(chunk)? {
            child if !child.leads_to(bits, len) => None,
            Child::Leaf { len: found, value, .. } => {
                let old = (*found == len).then_some(*value)?;
                self.children.remove(chunk);
                Some(old)
            }
            Child::Node(node) => {
                let old = node.remove(bits, len)?;
                if let Some(only) = node.take_only() {
                    self.children.insert(chunk, only);
                }
                Some(old)
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (B, u8, T)> + '_ {
        let mut stack = vec![self];
        let nodes = iter::from_fn(move || {
            let node = stack.pop()?;
            stack.extend(node.children.iter().filter_map(|(_, child)| child.node()));
            Some(node)
        });
        nodes.flat_map(|node| {
            node.own_prefixes().chain(node.children.iter().filter_map(|(_, child)| child.leaf()))
        })
    }

    /// The prefixes that end in this node.
    fn own_prefixes(&self) -> impl Iterator<Item = (B, u8, T)> + '_ {
        self.values.iter().map(|(slot, value)| {
            let len = (slot + 1).ilog2() as u8;
            let chunk = (slot + 1 - (1 << len)) << (STRIDE - len);
            (self.path.with(chunk, self.depth), self.depth + len, *value)
        })
    }

    /// Whether a prefix of this length on the node's path ends in this node.
    fn contains_len(&self, len: u8) -> bool {
        len < self.depth + STRIDE
    }

    /// Removes the node's content, if that is a single prefix or subtree.
    fn take_only(&mut self) -> Option<Child<B, T>> {
        match (self.values.len(), self.children.len()) {
            (1, 0) => self.own_prefixes().next().map(|(bits, len, value)| Child::Leaf {
                bits,
                len,
                value,
            }),
            (0, 1) => self.children.pop(),
            _ => None,
        }
    }
}

impl<B: Bits, T: Copy> Child<B, T> {
    fn insert(&mut self, bits: B, len: u8, value: T) -> Option<T> {
        if self.leads_to(bits, len) {
            match self {
                Self::Leaf { len: found, value: old, .. } if *found == len => {
                    return Some(mem::replace(old, value));
                }
                Self::Node(node) => return node.insert(bits, len, value),
                Self::Leaf { .. } => {}
            }
        }
        let (path, path_len) = self.path();
        let common = bits.common(path).min(len).min(path_len);
        let mut node = Node::new(bits, common - common % STRIDE);
        match mem::replace(self, Self::Leaf { bits, len, value }) {
            Self::Leaf { bits, len, value } => _ = node.insert(bits, len, value),
            below @ Self::Node(_) => _ = node.children.insert(path.chunk(node.depth), below),
        }
        node.insert(bits, len, value);
        *self = Self::Node(Box::new(node));
        None
    }

    /// Whether the prefix belongs into this subtree.
    fn leads_to(&self, bits: B, len: u8) -> bool {
        let (path, path_len) = self.path();
        path_len <= len && bits.common(path) >= path_len
    }

    /// The common start of all prefixes in the subtree: its bits and their number.
    fn path(&self) -> (B, u8) {
        match self {
            Self::Leaf { bits, len, .. } => (*bits, *len),
            Self::Node(node) => (node.path, node.depth),
        }
    }

    fn node(&self) -> Option<&Node<B, T>> {
        match self {
            Self::Node(node) => Some(node),
            Self::Leaf { .. } => None,
        }
    }

    fn leaf(&self) -> Option<(B, u8, T)> {
        match self {
            Self::Leaf { bits, len, value } => Some((*bits, *len, *value)),
            Self::Node(_) => None,
        }
    }
}

/// The place among a node's values of the prefix that consists of the first `len` < 6 bits of
/// `chunk`. Longer prefixes have higher places.
const fn slot(chunk: u8, len: u8) -> u8 {
    (1 << len) - 1 + (chunk >> (STRIDE - len))
}

/// For six bits of an address, the [`slot`]s of all prefixes that contain them.
const COVERING: [u64; 64] = {
    let mut masks = [0; 64];
    let mut chunk = 0;
    while chunk < 64 {
        let mut len = 0;
        while len < STRIDE {
            masks[chunk] |= 1 << slot(chunk as u8, len);
            len += 1;
        }
        chunk += 1;
    }
    masks
};

macro_rules! bits {
    ($type:ty) => {
        impl Bits for $type {
            const NONE: Self = 0;

            #[inline]
            fn chunk(self, depth: u8) -> u8 {
                ((self << depth) >> (Self::BITS - u32::from(STRIDE))) as u8
            }

            #[inline]
            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }

            #[inline]
            fn truncate(self, len: u8) -> Self {
                self & !Self::MAX.checked_shr(len.into()).unwrap_or(0)
            }

            #[inline]
            fn with(self, chunk: u8, depth: u8) -> Self {
                self | (Self::from(chunk) << (Self::BITS - u32::from(STRIDE))) >> depth
            }
        }
    };
}

bits!(u32);
bits!(u128);

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        /// Otherwise edits over months would cost memory and speed.
        #[test]
        fn the_shape_depends_on_the_prefixes_and_not_on_the_order_of_edits(
            prefixes in vec((any::<u32>(), 0..=32_u8, 0..20_u32), 0..100),
            kept in 0..100_usize,
        ) {
            let prefixes: Vec<(u32, u8)> = prefixes
                .iter()
                .map(|(bits, len, zeros)| ((bits << zeros).truncate(*len), *len))
                .collect();
            let (kept, removed) = prefixes.split_at(kept.min(prefixes.len()));
            let (mut edited, mut fresh) = (Node::root(), Node::root());
            for (bits, len) in &prefixes {
                edited.insert(*bits, *len, ());
            }
            for (bits, len) in removed.iter().filter(|prefix| !kept.contains(prefix)) {
                edited.remove(*bits, *len);
            }
            for (bits, len) in kept.iter().rev() {
                fresh.insert(*bits, *len, ());
            }
            prop_assert_eq!(format!("{edited:?}"), format!("{fresh:?}"));
        }
    }
}

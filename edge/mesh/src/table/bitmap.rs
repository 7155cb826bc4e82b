//! An array with 64 places that stores only those in use.

use std::mem;

#[derive(Debug, Clone)]
pub(super) struct Bitmap<T> {
    /// A bit for each place in use.
    used: u64,
    /// The items in these places, in order.
    items: Box<[T]>,
}

impl<T> Default for Bitmap<T> {
    fn default() -> Self {
        Self { used: 0, items: Box::default() }
    }
}

impl<T> Bitmap<T> {
    #[inline]
    pub(super) fn find(&self, place: u8) -> Option<&T> {
        if self.has(place) { self.items.get(self.rank(place)) } else { None }
    }

    #[inline]
    pub(super) fn find_mut(&mut self, place: u8) -> Option<&mut T> {
        if self.has(place) { self.items.get_mut(self.rank(place)) } else { None }
    }

    /// The item with the highest place in `mask`.
    #[inline]
    pub(super) fn last_of(&self, mask: u64) -> Option<&T> {
        let place = (self.used & mask).checked_ilog2()?;
        self.items.get(self.rank(place as u8))
    }

    pub(super) fn insert(&mut self, place: u8, item: T) -> Option<T> {
        if let Some(old) = self.find_mut(place) {
            return Some(mem::replace(old, item));
        }
        let mut items = mem::take(&mut self.items).into_vec();
        items.reserve_exact(1);
        items.insert(self.rank(place), item);
        self.items = items.into_boxed_slice();
        self.used |= 1 << place;
        None
    }

    pub(super) fn remove(&mut self, place: u8) -> Option<T> {
        if !self.has(place) {
            return None;
        }
        let mut items = mem::take(&mut self.items).into_vec();
        let old = items.remove(self.rank(place));
        self.items = items.into_boxed_slice();
        self.used &= !(1 << place);
        Some(old)
    }

    /// Removes the item with the highest place.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.remove(self.used.checked_ilog2()? as u8)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, &T)> {
        (0..64).filter(|place| self.has(*place)).zip(&self.items)
    }

    #[inline]
    fn has(&self, place: u8) -> bool {
        self.used & 1 << place != 0
    }

    /// The number of items before a place.
    #[inline]
    fn rank(&self, place: u8) -> usize {
        (self.used & ((1 << place) - 1)).count_ones() as usize
    }
}

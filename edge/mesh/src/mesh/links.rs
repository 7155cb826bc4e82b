//! All links of the core, by the number of their QUIC connection handle.

use std::{collections::VecDeque, mem};

use crate::{congestion::TotalInFlight, link::Link};

/// The endpoint reuses the number of a drained connection for its next one.
#[derive(Default)]
pub(super) struct Links {
    slots: Vec<Option<Box<Link>>>,
    /// Links that may have something to send, each once.
    ready: VecDeque<usize>,
    in_flight: TotalInFlight,
    /// See [`Link::unfinished`].
    unfinished: usize,
}

impl Links {
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&Link> {
        self.slots.get(index)?.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Link> {
        self.slots.get_mut(index)?.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Link)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_deref()?)))
    }

    pub(super) fn add(&mut self, index: usize, link: Link) {
        self.unfinished += usize::from(link.unfinished);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Box::new(link));
    }

    /// Removes a link whose connection is drained.
    pub(super) fn remove(&mut self, index: usize) -> Option<Box<Link>> {
        let link = self.slots[index].take()?;
        // It counted until now, because quinn-proto keeps a connection that its very first packet
        // closes until the idle timeout, and a stranger may send many such packets.
        self.unfinished -= usize::from(link.unfinished);
        self.in_flight.remove(link.outgoing.counted);
        self.ready.retain(|&other| other != index);
        Some(link)
    }

    /// Accepted handshakes that are under way, or failed and not drained.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished
    }

    pub(super) fn finish_handshake(&mut self, index: usize) {
        if let Some(link) = self.slots[index].as_mut() {
            self.unfinished -= usize::from(mem::take(&mut link.unfinished));
        }
    }

    /// Queues the link for [`Self::next_ready`].
    #[inline]
    pub(super) fn mark_ready(&mut self, index: usize) {
        if let Some(link) = self.slots[index].as_mut()
            && !link.outgoing.ready
        {
            link.outgoing.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Removes the next link from the queue. The caller must either [`Self::requeue`] it or clear
    /// its `ready` flag.
    #[inline]
    pub(super) fn next_ready(&mut self) -> Option<usize> {
        self.ready.pop_front()
    }

    #[inline]
    pub(super) fn requeue(&mut self, index: usize) {
        self.ready.push_back(index);
    }

    /// Updates the link's part of the bytes in flight on all links.
    #[inline]
    pub(super) fn update_in_flight(&mut self, index: usize) {
        if let Some(link) = self.slots[index].as_mut() {
            let in_flight = link.in_flight();
            self.in_flight.update(&mut link.outgoing.counted, in_flight);
        }
    }

    /// Whether the link may take more inner packets, as of the last [`Self::update_in_flight`].
    #[inline]
    pub(super) fn has_room(&self, index: usize) -> bool {
        self.get(index).is_some_and(|link| self.in_flight.has_room(link.outgoing.counted))
    }
}

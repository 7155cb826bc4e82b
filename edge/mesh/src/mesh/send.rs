//! From the TUN to the UDP socket: each packet gets a verdict, waits in its peer's queue, and is
//! sent on the peer's link.

use std::time::Instant;

use bytes::Bytes;
use cframe_packet::{fragment::fragment, ip::Packet, vnet::VnetHeader};
use quinn_proto::Transmit;

use super::Mesh;
use crate::{
    counters::{Counters, Reason},
    link::{Link, MAX_INNER},
    queue::Dropped,
};

impl Mesh {
    /// Handles one read of the TUN: a [`VnetHeader`], and a packet or super-packet.
    pub fn handle_tun(&mut self, now: Instant, read: &[u8]) {
        let parsed = VnetHeader::parse(read)
            .and_then(|(header, bytes)| Some((header, Packet::parse(bytes).ok()?)));
        let Some((header, packet)) = parsed else {
            return self.counters.drop(Reason::TunUnparsable);
        };
        match self.verdicts.outbound(packet.source(), packet.destination()) {
            Ok(peer) => self.enqueue(now, peer, &header, &packet),
            Err(reason) => self.counters.drop(reason),
        }
    }

    fn enqueue(&mut self, now: Instant, peer: u32, header: &VnetHeader, packet: &Packet<'_>) {
        let Self { peers, links, counters, quic, tun, .. } = self;
        let peer = &mut peers[peer];
        let current = peer.current.and_then(|index| Some((index, links.get(index)?)));
        let Some((index, link)) = current else {
            return counters.drop(Reason::NoLink);
        };
        let largest = link.outgoing.largest_inner.min(quic.tun_mtu());
        let Ok(packets) = tun.splitter.split(header, packet, largest) else {
            return counters.drop(Reason::TunUnparsable);
        };
        let mut dropped = Dropped::default();
        peer.queue.push(now, packet.flow().hash64(tun.flow_seed), packets, &mut dropped);
        counters.drop_queued(dropped);
        links.mark_ready(index);
    }

    /// Writes the next UDP payload to send to `buf`: one datagram, or a batch of at most
    /// `max_segments` datagrams of `segment_size` bytes each. Links take turns.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        buf.clear();
        if let Some(response) = self.quic.response_in_turn(buf) {
            return Some(response);
        }
        while let Some(index) = self.links.next_ready() {
            self.fill_send_buffer(now, index);
            let Some(link) = self.links.get_mut(index) else { continue };
            let segments = max_segments.min(link.outgoing.segments_per_batch());
            if let Some(mut transmit) = link.conn.poll_transmit(now, segments, buf) {
                if !link.outgoing.marked {
                    transmit.ecn = None;
                }
                self.links.requeue(index);
                return Some(transmit);
            }
            link.outgoing.ready = false;
            // Its events may cause more to send.
            if self.process_link_events(now, index) {
                self.links.mark_ready(index);
            }
        }
        self.quic.next_response(buf)
    }

    /// Moves packets from the peer's queue to the connection: as many as are sent at once.
    fn fill_send_buffer(&mut self, now: Instant, index: usize) {
        let Self { links, peers, counters, .. } = self;
        let Some(link) = links.get_mut(index) else { return };
        let Some(peer) = link.peer else { return };
        let peer = &mut peers[peer];
        if peer.current != Some(index) || link.send_check(now) || peer.queue.is_empty() {
            return;
        }
        let mut dropped = Dropped::default();
        links.update_in_flight(index);
        if !links.has_room(index) {
            dropped.old = peer.queue.expire(now);
            return counters.drop_queued(dropped);
        }
        let Some(link) = links.get_mut(index) else { return };
        if link.outgoing.small_packet_first(&mut link.conn, now) {
            return;
        }
        // Room for the largest packet, in fragments.
        while link.conn.datagrams().send_buffer_space() >= 2 * MAX_INNER {
            let Some(packet) = peer.queue.pop(now, &mut dropped) else { break };
            send_packet(link, &mut peer.next_fragment, packet, counters);
        }
        counters.drop_queued(dropped);
    }
}

/// Hands a packet to quinn-proto, which has room for it, in fragments if it is larger than a
/// datagram.
fn send_packet(link: &mut Link, next_fragment: &mut u32, packet: Bytes, counters: &mut Counters) {
    let len = packet.len();
    let largest = link.outgoing.largest_inner;
    if len <= largest {
        link.outgoing.record_packet(len);
        if link.conn.datagrams().send(packet, false).is_err() {
            return counters.drop(Reason::NoLink);
        }
    } else {
        let Some(pieces) = fragment(&packet, largest, *next_fragment) else {
            return counters.drop(Reason::Fragment);
        };
        *next_fragment = next_fragment.wrapping_add(1);
        for piece in pieces {
            if link.conn.datagrams().send(piece, false).is_err() {
                return counters.drop(Reason::Fragment);
            }
        }
        link.traffic.fragmented += 1;
        counters.fragmented += 1;
    }
    link.traffic.sent += 1;
    link.traffic.sent_bytes += len as u64;
    counters.sent += 1;
    counters.sent_bytes += len as u64;
}

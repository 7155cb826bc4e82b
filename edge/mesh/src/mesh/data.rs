//! The path of packets: TUN → verdict → queue → link, and link → verdict → TUN.

use std::{io::IoSlice, time::Instant};

use bytes::{Bytes, BytesMut};
use cframe_packet::{
    coalesce::Coalescer,
    ecn::{EcnVerdict, apply_ecn},
    fragment::{FRAGMENT, fragment},
    ip::Packet,
    mss::{clamp_mss, is_syn},
    vnet::VnetHeader,
};
use quinn_proto::{EcnCodepoint, Transmit};

use super::{Mesh, Received};
use crate::{
    counters::{Counters, Reason},
    link::{Link, MAX_INNER, Phase},
    queue::GivenUp,
    table::PrefixTable,
    verdict::{Owner, Passed},
};

impl Mesh {
    /// Takes UDP datagrams that came together. `write` gets what is to be written to the TUN, one
    /// call for one `writev`, a [`VnetHeader`] first; more may come with [`Self::flush_tun`].
    pub fn handle_datagrams(
        &mut self,
        now: Instant,
        from: &Received,
        mut data: BytesMut,
        write: &mut impl FnMut(&[IoSlice<'_>]),
    ) {
        let ce = from.ecn == Some(EcnCodepoint::Ce);
        let mut last = None;
        while !data.is_empty() {
            let datagram = data.split_to(from.stride.clamp(1, data.len()));
            let Some(index) = self.route_datagram(now, from, datagram) else { continue };
            self.take_datagrams(now, index, ce, write);
            // What came together is nearly always of one link.
            if let Some(other) = last.replace(index).filter(|&other| other != index) {
                self.service(now, other);
            }
        }
        if let Some(index) = last {
            self.service(now, index);
            self.note_remote(index);
        }
    }

    /// Writes what is held for merging: once a turn, when no more datagrams wait.
    pub fn flush_tun(&mut self, write: &mut impl FnMut(&[IoSlice<'_>])) {
        self.coalescer.flush(write);
    }

    /// Takes what one read of the TUN gave: a [`VnetHeader`], and a packet or super-packet.
    pub fn handle_tun(&mut self, now: Instant, read: &[u8]) {
        let parsed = VnetHeader::parse(read)
            .and_then(|(header, bytes)| Some((header, Packet::parse(bytes).ok()?)));
        let Some((header, packet)) = parsed else {
            return self.counters.drop(Reason::TunUnparsable);
        };
        match self.passed.outbound(&self.table, packet.source(), packet.destination()) {
            Ok(peer) => self.enqueue(now, peer, &header, &packet),
            Err(reason) => self.counters.drop(reason),
        }
    }

    fn enqueue(&mut self, now: Instant, peer: u32, header: &VnetHeader, packet: &Packet<'_>) {
        let Self { peers, links, counters, tun_mtu, splitter, flow_seed, .. } = self;
        let peer = &mut peers[peer as usize];
        let Some(link) = peer.current.and_then(|index| links[index].as_mut()) else {
            return counters.drop(Reason::NoLink);
        };
        let largest = link.largest_inner.min(usize::from(*tun_mtu));
        let Ok(packets) = splitter.split(header, packet, largest) else {
            return counters.drop(Reason::TunUnparsable);
        };
        let mut lost = GivenUp::default();
        peer.queue.push(now, packet.flow().hash64(*flow_seed), packets, &mut lost);
        counters.give_up(lost);
        let index = link.handle.0;
        self.mark_ready(index);
    }

    /// The next UDP payload to send, or batch of `segment_size` each, in `buf`; at most
    /// `max_segments` of them. Links take turns. To be called until there is none; when the socket
    /// takes no more, to be left until it does.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        buf.clear();
        // Answers to strangers and links take turns: a flood of the ones holds nothing up.
        self.answer_next = !self.answer_next;
        if self.answer_next
            && let Some(answer) = self.answer(buf)
        {
            return Some(answer);
        }
        while let Some(index) = self.ready.pop_front() {
            self.fill(now, index);
            let Some(link) = self.links[index].as_mut() else { continue };
            let segments = max_segments.min(link.segments_that_fit());
            if let Some(transmit) = link.conn.poll_transmit(now, segments, buf) {
                self.ready.push_back(index);
                return Some(transmit);
            }
            link.ready = false;
            // What it has to tell may give it more to say.
            if self.settle(now, index) {
                self.mark_ready(index);
            }
        }
        self.answer(buf)
    }

    fn answer(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = self.responses.pop_front()?;
        buf.extend_from_slice(&bytes);
        Some(transmit)
    }

    /// Hands the link as much of its queue as leaves at once.
    fn fill(&mut self, now: Instant, index: usize) {
        let Self { links, peers, counters, in_flight, .. } = self;
        let Some(link) = links[index].as_mut() else { return };
        let Some(peer) = link.peer.map(|peer| &mut peers[peer as usize]) else { return };
        if peer.current != Some(index) || peer.queue.is_empty() {
            return;
        }
        let mut lost = GivenUp::default();
        in_flight.count(link);
        if !in_flight.has_room(link) {
            lost.old = peer.queue.expire(now);
            return counters.give_up(lost);
        }
        if link.small_one_first(now) {
            return;
        }
        // Room for the largest packet, in fragments.
        while link.conn.datagrams().send_buffer_space() >= 2 * MAX_INNER {
            let Some(packet) = peer.queue.pop(now, &mut lost) else { break };
            send(link, &mut peer.next_fragment, packet, counters);
        }
        counters.give_up(lost);
    }

    /// Takes the inner packets that the last datagram brought.
    fn take_datagrams(
        &mut self,
        now: Instant,
        index: usize,
        ce: bool,
        write: &mut impl FnMut(&[IoSlice<'_>]),
    ) {
        let Self { links, peers, counters, table, passed, coalescer, tun_mtu, .. } = self;
        let Some(link) = links[index].as_mut() else { return };
        let Link { conn, phase, peer, reassembler, largest_inner, traffic, .. } = &mut **link;
        let mut datagrams = conn.datagrams();
        while let Some(datagram) = datagrams.recv() {
            // A peer sends once it has judged us; if that overtakes its hello, it is welcome.
            let (Some(peer), Phase::Greeting | Phase::Up | Phase::Retired) = (*peer, *phase) else {
                counters.drop(Reason::PeerUnknown);
                continue;
            };
            let mut egress = Egress {
                table,
                passed,
                coalescer,
                peer,
                largest: (*largest_inner).min(usize::from(*tun_mtu)),
            };
            let delivered = match datagram.first() {
                Some(first) if matches!(first >> 4, 4 | 6) => egress.deliver(datagram, ce, write),
                Some(&FRAGMENT) => match reassembler.push(now, &datagram, ce) {
                    Ok(Some(whole)) => egress.deliver(whole.packet, whole.ce, write),
                    Ok(None) => continue,
                    Err(_) => Err(Reason::Fragment),
                },
                Some(_) => Err(Reason::PeerUnknownFrame),
                None => Err(Reason::PeerUnparsable),
            };
            match delivered {
                Ok(len) => {
                    traffic.received += 1;
                    traffic.received_bytes += len;
                    counters.received += 1;
                    counters.received_bytes += len;
                }
                Err(reason) => {
                    tracing::trace!(peer = %peers[peer as usize].name, reason = reason.name(), "packet refused");
                    counters.drop(reason);
                }
            }
        }
    }
}

/// The way out of a link for one datagram's packets.
struct Egress<'a> {
    table: &'a PrefixTable<Owner>,
    passed: &'a mut Passed,
    coalescer: &'a mut Coalescer,
    peer: u32,
    /// Largest inner packet that the way back carries whole.
    largest: usize,
}

impl Egress<'_> {
    #[inline]
    fn deliver(
        &mut self,
        packet: Bytes,
        ce: bool,
        write: &mut impl FnMut(&[IoSlice<'_>]),
    ) -> Result<u64, Reason> {
        let view = Packet::parse(&packet).map_err(|_| Reason::PeerUnparsable)?;
        self.passed.inbound(self.table, self.peer, view.source(), view.destination())?;
        let packet = if ce || is_syn(&view) { self.amend(&packet, ce)? } else { packet };
        let len = packet.len() as u64;
        self.coalescer.push(packet, write);
        Ok(len)
    }

    /// The rare packet that is changed on its way out.
    #[cold]
    fn amend(&self, packet: &[u8], ce: bool) -> Result<Bytes, Reason> {
        let mut packet = BytesMut::from(packet);
        if apply_ecn(&mut packet, ce) == EcnVerdict::Drop {
            return Err(Reason::CongestionNotEct);
        }
        clamp_mss(&mut packet, self.largest);
        Ok(packet.freeze())
    }
}

/// Hands a packet to quinn-proto, which has room for it, in pieces where the path is too small.
fn send(link: &mut Link, next_fragment: &mut u32, packet: Bytes, counters: &mut Counters) {
    let len = packet.len();
    let largest = link.largest_inner;
    if len <= largest {
        link.handed_over(len);
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

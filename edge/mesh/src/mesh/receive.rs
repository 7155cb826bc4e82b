//! From the UDP socket to the TUN: each datagram goes to its link, each packet in it gets a
//! verdict.

use std::{
    io::IoSlice,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use cframe_packet::{
    coalesce::Coalescer,
    ecn::{EcnVerdict, apply_ecn},
    fragment::FRAGMENT,
    ip::Packet,
    mss::{clamp_mss, is_syn},
};
use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint};

use super::Mesh;
use crate::{
    counters::Reason,
    link::{Link, Phase},
    verdict::Verdicts,
};

/// The origin of UDP datagrams that the socket returned together.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub remote: SocketAddr,
    /// The address of this host that they were sent to.
    pub local_ip: Option<IpAddr>,
    /// The ECN field of the outer IP header.
    pub ecn: Option<EcnCodepoint>,
    /// Bytes of each datagram, where the kernel coalesced several (`UDP_GRO`); the last may be
    /// shorter.
    pub stride: usize,
}

impl Mesh {
    /// Handles UDP datagrams that the socket returned together. `write` gets the packets for the
    /// TUN: each call is one `writev`, a [`VnetHeader`](cframe_packet::vnet::VnetHeader) first.
    /// More may follow with [`Self::flush_tun`].
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
            self.deliver_packets(now, index, ce, write);
            // Datagrams that arrive together are nearly always of one link.
            if let Some(other) = last.replace(index).filter(|&other| other != index) {
                self.service_link(now, other);
            }
        }
        if let Some(index) = last {
            self.service_link(now, index);
            self.record_remote(index);
        }
    }

    /// Writes the packets that were kept for merging: once a turn, when no more datagrams wait.
    pub fn flush_tun(&mut self, write: &mut impl FnMut(&[IoSlice<'_>])) {
        self.tun.coalescer.flush(write);
    }

    /// Hands one UDP datagram to the connection that it belongs to, and returns the link's index.
    /// `None` if it belongs to none, or was refused.
    fn route_datagram(
        &mut self,
        now: Instant,
        from: &Received,
        datagram: BytesMut,
    ) -> Option<usize> {
        if self.handle_probe(now, from, &datagram) {
            return None;
        }
        let has_long_header = datagram.first().is_some_and(|first| first & 0x80 != 0);
        let datagram =
            if has_long_header { self.admit_handshake_datagram(now, &datagram)? } else { datagram };
        let mut response = Vec::new();
        let event = self.quic.endpoint.handle(
            now,
            from.remote,
            from.local_ip,
            from.ecn,
            datagram,
            &mut response,
        )?;
        match event {
            DatagramEvent::ConnectionEvent(handle, event) => {
                self.handle_connection_event(handle, event);
                Some(handle.0)
            }
            DatagramEvent::NewConnection(incoming) => {
                self.admit_connection(now, incoming, from.ecn.is_some())
            }
            DatagramEvent::Response(transmit) => {
                self.quic.queue_response(transmit, response);
                None
            }
        }
    }

    pub(super) fn handle_connection_event(
        &mut self,
        handle: ConnectionHandle,
        event: ConnectionEvent,
    ) {
        if let Some(link) = self.links.get_mut(handle.0) {
            link.conn.handle_event(event);
        }
    }

    /// Delivers the inner packets that the last datagram brought to the TUN, or drops them.
    fn deliver_packets(
        &mut self,
        now: Instant,
        index: usize,
        ce: bool,
        write: &mut impl FnMut(&[IoSlice<'_>]),
    ) {
        let Self { links, peers, counters, verdicts, tun, quic, .. } = self;
        let Some(link) = links.get_mut(index) else { return };
        let Link { conn, phase, peer, reassembler, outgoing, checks, traffic, .. } = link;
        let mut datagrams = conn.datagrams();
        while let Some(datagram) = datagrams.recv() {
            // A peer sends as soon as it has accepted us; its packets may overtake its hello.
            let (Some(peer), Phase::AwaitingHello | Phase::Contending | Phase::Up | Phase::Retired) =
                (*peer, *phase)
            else {
                counters.drop(Reason::PeerUnknown);
                continue;
            };
            let mut egress = Egress {
                verdicts,
                coalescer: &mut tun.coalescer,
                peer,
                largest: outgoing.largest_inner.min(quic.tun_mtu()),
            };
            let delivered = match datagram.first() {
                Some(first) if matches!(first >> 4, 4 | 6) => egress.deliver(datagram, ce, write),
                Some(&FRAGMENT) => match reassembler.push(now, &datagram, ce) {
                    Ok(Some(whole)) => egress.deliver(whole.packet, whole.ce, write),
                    Ok(None) => continue,
                    Err(_) => Err(Reason::Fragment),
                },
                Some(_) if checks.receive(&datagram) => continue,
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
                    tracing::trace!(peer = %peers[peer].name, reason = reason.name(), "packet refused");
                    counters.drop(reason);
                }
            }
        }
    }
}

/// The way from a link to the TUN for the packets of one datagram.
struct Egress<'a> {
    verdicts: &'a mut Verdicts,
    coalescer: &'a mut Coalescer,
    peer: u32,
    /// Largest inner packet in bytes that a datagram to the peer carries whole.
    largest: usize,
}

impl Egress<'_> {
    /// Returns the packet's length in bytes.
    #[inline]
    fn deliver(
        &mut self,
        packet: Bytes,
        ce: bool,
        write: &mut impl FnMut(&[IoSlice<'_>]),
    ) -> Result<u64, Reason> {
        let view = Packet::parse(&packet).map_err(|_| Reason::PeerUnparsable)?;
        self.verdicts.inbound(self.peer, view.source(), view.destination())?;
        let packet = if ce || is_syn(&view) { self.modify(&packet, ce)? } else { packet };
        let len = packet.len() as u64;
        self.coalescer.push(packet, write);
        Ok(len)
    }

    /// Applies a congestion mark, and clamps the MSS of a SYN.
    #[cold]
    fn modify(&self, packet: &[u8], ce: bool) -> Result<Bytes, Reason> {
        let mut packet = BytesMut::from(packet);
        if apply_ecn(&mut packet, ce) == EcnVerdict::Drop {
            return Err(Reason::CongestionNotEct);
        }
        clamp_mss(&mut packet, self.largest);
        Ok(packet.freeze())
    }
}

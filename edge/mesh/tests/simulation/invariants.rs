//! The invariants, which must hold at every step.

use std::{collections::BTreeMap, fmt, time::Duration};

use cframe_mesh::Load;
use cframe_packet::{ip::Packet, split::Splitter, vnet::VnetHeader};

use crate::{
    edge::Edge,
    traffic::{Id, Read, identify},
};

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) broken: Broken,
    pub(crate) what: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Broken {
    /// A packet reached an edge that does not own its destination.
    Destination,
    /// A packet reached an edge from one that does not own its source.
    Source,
    /// A packet was delivered twice.
    Twice,
    /// A packet overtook an earlier one of its flow on a wire that keeps order.
    Order,
    /// A packet was written to a TUN that was never read from one.
    Unknown,
    /// A packet came from an edge that is revoked or no peer.
    Stranger,
    /// A core holds more in memory than it may.
    Bounds,
    /// After the repair a link did not come back, or lost packets.
    Repair,
    /// A revoked edge has a link.
    Denied,
}

impl Violation {
    pub(crate) fn new(broken: Broken, what: impl fmt::Display) -> Self {
        Self { broken, what: what.to_string() }
    }
}

/// Every packet that was sent, and whether it was delivered.
#[derive(Default)]
pub(crate) struct Checker {
    flows: Vec<Vec<Sent>>,
    /// By flow, receiver and sender's link: the number of the last delivered packet.
    last: BTreeMap<(u32, usize, u32), u32>,
    pub(crate) delivered: u64,
    /// Super-packets written to a TUN.
    pub(crate) merged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    by: usize,
    /// The number of its sender's link to the destination's owner.
    link: u32,
    len: usize,
    delivered: bool,
}

impl Checker {
    /// Adds a flow and returns its number.
    pub(crate) fn add_flow(&mut self) -> u32 {
        self.flows.push(Vec::new());
        self.flows.len() as u32 - 1
    }

    /// Records packets that were read from the TUN of `by`.
    pub(crate) fn record_sent(&mut self, by: &Edge, destination: std::net::IpAddr, read: &Read) {
        let link = by.known.owner(destination).map_or(0, |owner| by.links[owner]);
        for id in &read.packets {
            let flow = &mut self.flows[id.flow as usize];
            assert_eq!(flow.len(), id.sequence as usize, "packets are numbered as they are sent");
            flow.push(Sent { by: by.index, link, len: id.len, delivered: false });
        }
    }

    pub(crate) fn was_delivered(&self, id: Id) -> bool {
        self.flows[id.flow as usize][id.sequence as usize].delivered
    }

    /// Checks one write to the TUN of `at`: a packet or a super-packet after its header.
    pub(crate) fn check_write(
        &mut self,
        at: &Edge,
        write: &[u8],
        wire_keeps_order: bool,
        delivered: &mut impl FnMut(Id),
    ) -> Result<(), Violation> {
        let unknown = |what: &str| Violation::new(Broken::Unknown, what);
        let (header, bytes) = VnetHeader::parse(write).ok_or(unknown("no header"))?;
        let packet = Packet::parse(bytes).map_err(|_| unknown("not a packet"))?;
        let packets = Splitter::default()
            .split(&header, &packet, usize::MAX)
            .map_err(|error| Violation::new(Broken::Unknown, error))?;
        self.merged += u64::from(packets.len() > 1);
        for packet in packets {
            let packet = Packet::parse(&packet).map_err(|_| unknown("not a packet"))?;
            let id = identify(&packet).ok_or(unknown("a packet that was changed"))?;
            self.check_packet(at, &packet, id, wire_keeps_order)?;
            delivered(id);
        }
        Ok(())
    }

    fn check_packet(
        &mut self,
        at: &Edge,
        packet: &Packet<'_>,
        id: Id,
        wire_keeps_order: bool,
    ) -> Result<(), Violation> {
        let flow = self.flows.get_mut(id.flow as usize);
        let sent = flow.and_then(|flow| flow.get_mut(id.sequence as usize));
        let Some(sent) = sent.filter(|sent| sent.len == id.len) else {
            return Err(Violation::new(Broken::Unknown, format!("{id:?}")));
        };
        let case = || {
            let (source, destination) = (packet.source(), packet.destination());
            format!("{id:?}, {source} to {destination}, of {}, at {}", sent.by, at.index)
        };
        if at.known.owner(packet.destination()) != Some(at.index) {
            return Err(Violation::new(Broken::Destination, case()));
        }
        if at.known.owner(packet.source()) != Some(sent.by) {
            return Err(Violation::new(Broken::Source, case()));
        }
        if at.known.denied.contains(sent.by) || at.known.peers[sent.by].is_none() {
            return Err(Violation::new(Broken::Stranger, case()));
        }
        if sent.delivered {
            return Err(Violation::new(Broken::Twice, case()));
        }
        // Order is kept on one link of the sender if the wire delays all datagrams of a pair alike:
        // links send datagrams in order, nothing is retransmitted, and a fragmented packet is
        // complete when its last fragment arrives. There is no order between links: the old link's
        // batch may be sent before or after the new one's.
        let last = self.last.entry((id.flow, at.index, sent.link)).or_insert(id.sequence);
        if wire_keeps_order && *last > id.sequence {
            return Err(Violation::new(Broken::Order, format!("{} after {last}", case())));
        }
        *last = (*last).max(id.sequence);
        sent.delivered = true;
        self.delivered += 1;
        Ok(())
    }
}

/// Checks the most that a core may hold with this number of peers.
///
/// Links to each peer: the one in use; replaced ones, for a second; closed ones that drain; and
/// handshakes of both sides, which take four seconds at most and start half a second or more apart.
pub(crate) fn within_bounds(load: &Load, peers: usize) -> Result<(), Violation> {
    let max = Load {
        links: 8 + 10 * peers,
        unfinished: 4 + 4 * peers,
        queued: (4 << 20) + 2048,
        in_flight: (16 << 20) + (1 << 20),
        events: 4096,
        responses: 256,
    };
    let within = load.links <= max.links
        && load.unfinished <= max.unfinished
        && load.queued <= max.queued
        && load.in_flight <= max.in_flight
        && load.events <= max.events
        && load.responses <= max.responses;
    match within {
        true => Ok(()),
        false => Err(Violation::new(Broken::Bounds, format!("{load:?} with {peers} peers"))),
    }
}

/// Checks that no pair is `missing` a link.
pub(crate) fn all_repaired(missing: &[(usize, usize)], after: Duration) -> Result<(), Violation> {
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("no traffic {after:?} after the repair, (from, to): {missing:?}");
    Err(Violation::new(Broken::Repair, what))
}

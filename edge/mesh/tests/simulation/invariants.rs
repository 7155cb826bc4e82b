//! What must hold at every step, whatever happens.

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
    /// A packet was delivered a second time.
    Twice,
    /// A packet overtook an earlier one of its flow, on a wire that keeps order.
    Order,
    /// Something came out of a TUN that never went into one.
    Unknown,
    /// A packet of an edge that is denied, or no peer.
    Stranger,
    /// More is held in memory than there should be.
    Bounds,
    /// A link did not come back, or lost packets, after all was repaired.
    Repair,
    /// A denied edge has a link.
    Denied,
}

impl Violation {
    pub(crate) fn new(broken: Broken, what: impl fmt::Display) -> Self {
        Self { broken, what: what.to_string() }
    }
}

/// Every packet that was sent, and what became of it.
#[derive(Default)]
pub(crate) struct Checker {
    flows: Vec<Vec<Sent>>,
    /// By flow, receiver and link of the sender: the last packet that was delivered.
    last: BTreeMap<(u32, usize, u32), u32>,
    pub(crate) delivered: u64,
    /// Writes to a TUN that stood for several packets.
    pub(crate) merged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    by: usize,
    /// Which of the links that its sender has had to the destination's owner.
    link: u32,
    len: usize,
    delivered: bool,
}

impl Checker {
    /// A new flow's number.
    pub(crate) fn flow(&mut self) -> u32 {
        self.flows.push(Vec::new());
        self.flows.len() as u32 - 1
    }

    /// Packets go into the TUN of `by`.
    pub(crate) fn sent(&mut self, by: &Edge, destination: std::net::IpAddr, read: &Read) {
        let link = by.view.owner(destination).map_or(0, |owner| by.links[owner]);
        for id in &read.packets {
            let flow = &mut self.flows[id.flow as usize];
            assert_eq!(flow.len(), id.sequence as usize, "packets are numbered as they are sent");
            flow.push(Sent { by: by.index, link, len: id.len, delivered: false });
        }
    }

    pub(crate) fn was_delivered(&self, id: Id) -> bool {
        self.flows[id.flow as usize][id.sequence as usize].delivered
    }

    /// One write to the TUN of `at`: a packet or a super-packet after its header. `orderly` says
    /// that the wire keeps order.
    pub(crate) fn written(
        &mut self,
        at: &Edge,
        write: &[u8],
        orderly: bool,
        digest: &mut impl FnMut(Id),
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
            self.one(at, &packet, id, orderly)?;
            digest(id);
        }
        Ok(())
    }

    fn one(
        &mut self,
        at: &Edge,
        packet: &Packet<'_>,
        id: Id,
        orderly: bool,
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
        if at.view.owner(packet.destination()) != Some(at.index) {
            return Err(Violation::new(Broken::Destination, case()));
        }
        if at.view.owner(packet.source()) != Some(sent.by) {
            return Err(Violation::new(Broken::Source, case()));
        }
        if at.view.denied.has(sent.by) || at.view.peers[sent.by].is_none() {
            return Err(Violation::new(Broken::Stranger, case()));
        }
        if sent.delivered {
            return Err(Violation::new(Broken::Twice, case()));
        }
        // On one link of the sender, over a wire that delays all datagrams of a pair alike, order is
        // kept: links send their datagrams in order, nothing is sent again, and a packet in pieces
        // is whole when its last piece arrives. A packet that its sender gave to another link may be
        // anywhere: the old link's batch leaves before or after the new one's.
        let last = self.last.entry((id.flow, at.index, sent.link)).or_insert(id.sequence);
        if orderly && *last > id.sequence {
            return Err(Violation::new(Broken::Order, format!("{} after {last}", case())));
        }
        *last = (*last).max(id.sequence);
        sent.delivered = true;
        self.delivered += 1;
        Ok(())
    }
}

/// The most that a core may hold, as a function of how many peers it has.
///
/// Links: to each peer the one in use; those that were replaced, for a second; those that are closed
/// and drain; and handshakes of both sides, which take four seconds at most and begin half a second
/// or more apart.
pub(crate) fn within_bounds(load: &Load, peers: usize) -> Result<(), Violation> {
    let most = Load {
        links: 8 + 10 * peers,
        unfinished: 4 + 4 * peers,
        queued: (4 << 20) + 2048,
        in_flight: (16 << 20) + (1 << 20),
        events: 4096,
        responses: 256,
    };
    let within = load.links <= most.links
        && load.unfinished <= most.unfinished
        && load.queued <= most.queued
        && load.in_flight <= most.in_flight
        && load.events <= most.events
        && load.responses <= most.responses;
    match within {
        true => Ok(()),
        false => Err(Violation::new(Broken::Bounds, format!("{load:?} with {peers} peers"))),
    }
}

/// Whether links have come back in time.
pub(crate) fn repaired(missing: &[(usize, usize)], after: Duration) -> Result<(), Violation> {
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("no traffic {after:?} after the repair, (from, to): {missing:?}");
    Err(Violation::new(Broken::Repair, what))
}

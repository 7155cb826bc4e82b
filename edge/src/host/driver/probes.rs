//! Packets of this process on their way through the host: recognised here before they get a verdict.
//!
//! A probe has one of three lengths, and a random number of this process and its own number at the end, or
//! where that is in a short one. No other packet is looked at.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
};

use tokio::sync::mpsc::Sender;

use super::Command;

/// Bytes of a probe with its IP header.
pub const V4_LEN: usize = 67;
pub const V6_LEN: usize = 87;
/// Bytes of a probe of packets that carry data, in both families: hosts of IPv6 forward 1,280.
pub const LARGE_LEN: usize = 1263;
/// Bytes of a UDP probe's payload, the same in both families.
pub const PAYLOAD_LEN: usize = 39;
/// Bytes at the end of a probe: the process's number and the probe's.
pub const TRAILER_LEN: usize = 16;

/// The random number of this process.
pub type Magic = [u8; 8];

/// A probe that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The probe's number.
    pub id: u64,
    /// The address from which it seems to come.
    pub source: IpAddr,
}

/// Recognises probes and reports them.
#[derive(Clone, Debug)]
pub struct Watcher {
    magic: Magic,
    arrivals: Sender<Arrival>,
}

impl Watcher {
    pub fn new(magic: Magic, arrivals: Sender<Arrival>) -> Self {
        Self { magic, arrivals }
    }

    /// Whether a packet of the TUN is a probe. It is then reported, and goes nowhere else.
    #[inline]
    pub(super) fn takes_packet(&self, packet: &[u8]) -> bool {
        matches!(packet.len(), V4_LEN | V6_LEN | LARGE_LEN)
            && short(packet)
                .and_then(|short| self.id(short))
                .is_some_and(|id| self.report(id, source(packet)))
    }

    /// Whether a datagram of the mesh's socket is a probe.
    #[inline]
    pub(super) fn takes_datagram(&self, from: SocketAddr, payload: &[u8]) -> bool {
        payload.len() == PAYLOAD_LEN
            && self.id(payload).is_some_and(|id| self.report(id, Some(from.ip())))
    }

    fn id(&self, bytes: &[u8]) -> Option<u64> {
        let (_, trailer) = bytes.split_last_chunk::<TRAILER_LEN>()?;
        let (magic, id) = trailer.split_at(self.magic.len());
        let id = id.first_chunk()?;
        (*magic == self.magic).then(|| u64::from_be_bytes(*id))
    }

    fn report(&self, id: u64, source: Option<IpAddr>) -> bool {
        if let Some(source) = source {
            // Without room, the probe counts as lost and is sent again.
            let _ = self.arrivals.try_send(Arrival { id, source });
        }
        true
    }
}

/// Writes probes into the TUN, from other threads.
#[derive(Clone, Debug)]
pub struct Injector {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Injector {
    /// Writes packets into the TUN, as if they came from the mesh.
    pub fn inject(&self, packets: Vec<Vec<u8>>) {
        // If the thread has ended, the process ends as well.
        if self.commands.send(Command::Inject(packets)).is_ok() {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// What a short probe has of a packet: the numbers are at the end of it.
fn short(packet: &[u8]) -> Option<&[u8]> {
    packet.get(..if packet.first()? >> 4 == 6 { V6_LEN } else { V4_LEN })
}

fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16)?.first_chunk().map(|ip: &[u8; 4]| Ipv4Addr::from(*ip).into()),
        6 => packet.get(8..24)?.first_chunk().map(|ip: &[u8; 16]| Ipv6Addr::from(*ip).into()),
        _ => None,
    }
}

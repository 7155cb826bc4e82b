//! The header before each packet of a TUN device with offloads.

/// `struct virtio_net_hdr` (linux/virtio_net.h), ten bytes before every packet of a TUN with
/// `IFF_VNET_HDR`, in the machine's byte order unless `TUNSETVNETLE` or `TUNSETVNETBE` was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Bytes of all headers. The kernel states more when it forwards, so nothing here reads it.
    pub header_len: u16,
    /// Payload bytes of each segment: the MSS of TCP, the datagram's payload of UDP.
    pub gso_size: u16,
    /// Where checksumming starts, in bytes from the start of the packet.
    pub csum_start: u16,
    /// The place of the checksum, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Length in bytes (`TUNSETVNETHDRSZ`'s default).
    pub const LEN: usize = 10;
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field holds the pseudo header's sum only.
    pub const NEEDS_CSUM: u8 = 1;
    /// `VIRTIO_NET_HDR_GSO_NONE`: not a super-packet.
    pub const GSO_NONE: u8 = 0;
    /// `VIRTIO_NET_HDR_GSO_TCPV4`.
    pub const GSO_TCPV4: u8 = 1;
    /// `VIRTIO_NET_HDR_GSO_TCPV6`.
    pub const GSO_TCPV6: u8 = 4;
    /// `VIRTIO_NET_HDR_GSO_UDP_L4`: datagrams of one flow and size, IPv4 or IPv6.
    pub const GSO_UDP_L4: u8 = 5;
    /// `VIRTIO_NET_HDR_GSO_ECN`, a flag beside a TCP type: CWR is set.
    pub const GSO_ECN: u8 = 0x80;

    /// Splits what was read from the TUN into header and packet; `None` if it is too short.
    #[inline]
    #[must_use]
    pub fn parse(read: &[u8]) -> Option<(Self, &[u8])> {
        let (&[flags, gso_type, a, b, c, d, e, f, g, h], packet) = read.split_first_chunk()?;
        let header = Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        };
        Some((header, packet))
    }

    /// The header in the kernel's layout.
    #[inline]
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }
}

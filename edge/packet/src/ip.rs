//! IP packets, read in place.
//!
//! [`Packet::parse`] checks what the rest of the data path relies on: a version, complete headers,
//! and a stated length that is exactly the buffer's. Nothing is copied.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::{checksum::Sum, ecn::Ecn, flow::FlowKey};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Extension headers that are read before a packet is refused; RFC 8200 §4.1 defines seven.
const MAX_EXTENSIONS: usize = 8;

/// An IPv4 or IPv6 packet whose headers were checked.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: usize,
    fragment: Fragment,
}

/// Which part of a fragmented IP datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented. An IPv6 "atomic fragment" (RFC 6946) is whole too.
    Whole,
    /// The first fragment: its transport header can be read.
    First,
    /// A later fragment: it has no transport header.
    Later,
}

/// Why bytes are not a valid packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unparsable {
    /// Neither 4 nor 6 in the first four bits, or no byte at all.
    #[error("not an IP packet")]
    Version,
    /// Fewer bytes than the fixed header, or an IPv4 header length that is impossible.
    #[error("the IP header is truncated or its length is impossible")]
    Header,
    /// The header's length field isn't the buffer's length. Trailing bytes are refused, not
    /// trimmed: a datagram carries exactly one packet. Both lengths are in bytes.
    #[error("the IP header states {stated} bytes, the packet has {actual}")]
    Length { stated: usize, actual: usize },
    /// IPv6 extension headers run past the end, or there are more than eight.
    #[error("the IPv6 extension headers are truncated or too many")]
    Extensions,
}

impl<'a> Packet<'a> {
    /// Checks the headers of `bytes`, which must be exactly one packet.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unparsable> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            _ => Err(Unparsable::Version),
        }
    }

    /// RFC 791 §3.1.
    #[inline]
    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Unparsable> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(Unparsable::Header)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let stated = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < 20 || header_len > bytes.len() {
            return Err(Unparsable::Header);
        }
        if stated != bytes.len() {
            return Err(Unparsable::Length { stated, actual: bytes.len() });
        }
        let word = u16::from_be_bytes([header[6], header[7]]);
        let fragment = Fragment::of(word & 0x1fff, word & 0x2000 != 0);
        let [.., a, b, c, d, e, f, g, h] = *header;
        Ok(Self {
            bytes,
            source: Ipv4Addr::new(a, b, c, d).into(),
            destination: Ipv4Addr::new(e, f, g, h).into(),
            protocol: header[9],
            transport: header_len,
            fragment,
        })
    }

    /// RFC 8200 §3. Jumbograms (RFC 2675, payload length zero) fail the length check.
    #[inline]
    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Unparsable> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or(Unparsable::Header)?;
        let stated = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if stated != bytes.len() {
            return Err(Unparsable::Length { stated, actual: bytes.len() });
        }
        let upper = Upper::walk(bytes, header[6])?;
        Ok(Self {
            bytes,
            source: v6_address(header, 8),
            destination: v6_address(header, 24),
            protocol: upper.protocol,
            transport: upper.offset,
            fragment: upper.fragment,
        })
    }

    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.source
    }

    #[inline]
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The IANA protocol number after the IPv4 header or the last IPv6 extension header.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Length of all IP headers in bytes; at most the packet's length.
    #[inline]
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        self.transport
    }

    /// The bytes after the IP headers.
    #[inline]
    #[must_use]
    pub fn transport(&self) -> &'a [u8] {
        &self.bytes[self.transport..]
    }

    #[inline]
    #[must_use]
    pub fn fragment(&self) -> Fragment {
        self.fragment
    }

    #[inline]
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }

    #[inline]
    #[must_use]
    pub fn ecn(&self) -> Ecn {
        Ecn::of(self.bytes)
    }

    /// The IPv4 time to live or the IPv6 hop limit.
    #[inline]
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.bytes[if self.is_ipv6() { 7 } else { 8 }]
    }

    /// Source and destination port of TCP, UDP, DCCP, SCTP and UDP-Lite; `None` if this packet
    /// doesn't contain them.
    #[inline]
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        if !matches!(self.protocol, TCP | UDP | 33 | 132 | 136) || self.fragment == Fragment::Later
        {
            return None;
        }
        let &[a, b, c, d] = self.transport().first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    #[inline]
    #[must_use]
    pub fn flow(&self) -> FlowKey {
        FlowKey::new(self.source, self.destination, self.protocol, self.ports())
    }

    /// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) without its length field.
    #[inline]
    #[must_use]
    pub fn pseudo_header(&self) -> Sum {
        let addresses = if self.is_ipv6() { &self.bytes[8..40] } else { &self.bytes[12..20] };
        Sum::of(addresses).word(u16::from(self.protocol))
    }
}

impl Fragment {
    #[inline]
    fn of(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

#[inline]
fn v6_address(header: &[u8; 40], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Ipv6Addr::from(octets).into()
}

/// The end of a chain of IPv6 extension headers: the protocol after it, its offset in the packet.
struct Upper {
    protocol: u8,
    offset: usize,
    fragment: Fragment,
}

impl Upper {
    #[inline]
    fn walk(bytes: &[u8], first: u8) -> Result<Self, Unparsable> {
        let mut upper = Self { protocol: first, offset: 40, fragment: Fragment::Whole };
        for _ in 0..=MAX_EXTENSIONS {
            if !upper.step(bytes)? {
                return Ok(upper);
            }
        }
        Err(Unparsable::Extensions)
    }

    /// Skips one extension header; false if there is none.
    #[inline]
    fn step(&mut self, bytes: &[u8]) -> Result<bool, Unparsable> {
        // Data follows a later fragment's header, whatever its next-header field says.
        if self.fragment == Fragment::Later {
            return Ok(false);
        }
        // Hop-by-hop, routing, destination options, mobility, HIP and Shim6 have the same form; the
        // fragment header is 8 bytes, the authentication header counts in 4 bytes (RFC 4302 §2.2).
        if !matches!(self.protocol, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
            return Ok(false);
        }
        let header = &bytes[self.offset..];
        let &[next, units, high, low, ..] =
            header.first_chunk::<8>().ok_or(Unparsable::Extensions)?;
        let len = match self.protocol {
            44 => 8,
            51 => (usize::from(units) + 2) * 4,
            _ => (usize::from(units) + 1) * 8,
        };
        if len > header.len() {
            return Err(Unparsable::Extensions);
        }
        if self.protocol == 44 {
            let word = u16::from_be_bytes([high, low]);
            self.fragment = Fragment::of(word >> 3, word & 1 != 0);
        }
        self.protocol = next;
        self.offset += len;
        Ok(true)
    }
}

//! Builds packets field by field, and sums checksums word by word, as the RFCs say. Nothing here
//! uses the code under test.

use proptest::{collection::vec, prelude::*};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) v6: bool,
    /// The last byte of source and destination, the flow's number in the ports.
    pub(crate) source: u8,
    pub(crate) destination: u8,
    pub(crate) flow: u16,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    /// IPv4 options or an IPv6 destination options header.
    pub(crate) ip_options: bool,
    /// Offset in 8 bytes, and whether more follow.
    pub(crate) fragment: Option<(u16, bool)>,
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Tcp { sequence: u32, acknowledged: u32, flags: u8, window: u16, urgent: u16, options: Vec<u8> },
    Udp,
}

impl Spec {
    pub(crate) fn tcp(payload: Vec<u8>) -> Self {
        let transport = Transport::Tcp {
            sequence: 1_000,
            acknowledged: 77,
            flags: ACK,
            window: 501,
            urgent: 0,
            // NOP, NOP, timestamps.
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        };
        Self { transport, ..Self::udp(payload) }
    }

    pub(crate) fn udp(payload: Vec<u8>) -> Self {
        Self {
            v6: false,
            source: 1,
            destination: 2,
            flow: 0,
            tos: 0,
            ttl: 64,
            id: 7,
            dont_fragment: true,
            ip_options: false,
            fragment: None,
            transport: Transport::Udp,
            payload,
        }
    }

    pub(crate) fn is_udp(&self) -> bool {
        matches!(self.transport, Transport::Udp)
    }

    /// The packet with correct checksums.
    pub(crate) fn build(&self) -> Vec<u8> {
        let (mut packet, start, field) = self.without_checksum();
        let mut sum = self.pseudo_sum((packet.len() - start) as u16) + words(&packet[start..]);
        sum = fold(sum);
        let checksum = match !(sum as u16) {
            0 if self.is_udp() => 0xffff,
            checksum => checksum,
        };
        packet[start + field..start + field + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The packet as the kernel hands it to a device with checksum offload: with the pseudo
    /// header's sum in the checksum field. Also the offset of the transport header, and of the
    /// field in it.
    pub(crate) fn build_partial(&self) -> (Vec<u8>, usize, usize) {
        let (mut packet, start, field) = self.without_checksum();
        let sum = fold(self.pseudo_sum((packet.len() - start) as u16)) as u16;
        packet[start + field..start + field + 2].copy_from_slice(&sum.to_be_bytes());
        (packet, start, field)
    }

    /// The packets that a network card would send: one for every `size` bytes of payload.
    pub(crate) fn segment(&self, size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(size).max(1);
        (0..count).map(|index| self.segment_at(size, index, index + 1 == count).build()).collect()
    }

    fn segment_at(&self, size: usize, index: usize, last: bool) -> Self {
        let mut segment = self.clone();
        let (start, end) = (index * size, ((index + 1) * size).min(self.payload.len()));
        segment.payload = self.payload[start..end].to_vec();
        segment.id = self.id.wrapping_add(index as u16);
        if let Transport::Tcp { sequence, flags, .. } = &mut segment.transport {
            *sequence = sequence.wrapping_add(start as u32);
            *flags &= !if last { 0 } else { FIN | PSH };
            *flags &= !if index == 0 { 0 } else { CWR };
        }
        segment
    }

    fn protocol(&self) -> u8 {
        if self.is_udp() { 17 } else { 6 }
    }

    fn addresses(&self) -> Vec<u8> {
        let address = |last: u8| match self.v6 {
            true => vec![0xfd, 0, 0, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last],
            false => vec![172, 18, 0, last],
        };
        [address(self.source), address(self.destination)].concat()
    }

    fn pseudo_sum(&self, len: u16) -> u64 {
        words(&self.addresses()) + u64::from(self.protocol()) + u64::from(len)
    }

    fn without_checksum(&self) -> (Vec<u8>, usize, usize) {
        let mut transport = [(5000 + self.flow).to_be_bytes(), 443_u16.to_be_bytes()].concat();
        let field = match &self.transport {
            Transport::Udp => {
                transport.extend((8 + self.payload.len() as u16).to_be_bytes());
                transport.extend([0, 0]);
                6
            }
            Transport::Tcp { sequence, acknowledged, flags, window, urgent, options } => {
                assert!(options.len() % 4 == 0 && options.len() <= 40);
                transport.extend(sequence.to_be_bytes());
                transport.extend(acknowledged.to_be_bytes());
                transport.extend([(5 + options.len() as u8 / 4) << 4, *flags]);
                transport.extend(window.to_be_bytes());
                transport.extend([0, 0]);
                transport.extend(urgent.to_be_bytes());
                transport.extend(options);
                16
            }
        };
        transport.extend(&self.payload);
        let mut packet =
            if self.v6 { self.v6_header(transport.len()) } else { self.v4_header(transport.len()) };
        let start = packet.len();
        packet.extend(transport);
        (packet, start, field)
    }

    fn v4_header(&self, len: usize) -> Vec<u8> {
        let options: &[u8] = if self.ip_options { &[1, 1, 1, 0] } else { &[] };
        let words_of_header = 5 + options.len() as u8 / 4;
        let mut header = vec![0x40 | words_of_header, self.tos];
        header.extend((usize::from(words_of_header) * 4 + len).to_be_bytes()[6..].iter());
        header.extend(self.id.to_be_bytes());
        let (offset, more) = self.fragment.unwrap_or_default();
        let word = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13 | offset;
        header.extend(word.to_be_bytes());
        header.extend([self.ttl, self.protocol(), 0, 0]);
        header.extend(self.addresses());
        header.extend(options);
        let checksum = !(fold(words(&header)) as u16);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn v6_header(&self, len: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut next = self.protocol();
        if let Some((offset, more)) = self.fragment {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            extensions.splice(0..0, [next, 0, high, low, 0, 0, 0, 9]);
            next = 44;
        }
        if self.ip_options {
            extensions.splice(0..0, [next, 0, 1, 4, 0, 0, 0, 0]);
            next = 60;
        }
        let first = 6 << 28 | u32::from(self.tos) << 20 | 0x1_2345;
        let mut header = first.to_be_bytes().to_vec();
        header.extend(((extensions.len() + len) as u16).to_be_bytes());
        header.extend([next, self.ttl]);
        header.extend(self.addresses());
        header.extend(extensions);
        header
    }
}

/// The sum of big-endian words, padded with a zero.
pub(crate) fn words(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)))
        .sum()
}

pub(crate) fn fold(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

/// Whether the IPv4 header checksum and that of TCP or UDP are right; for packets without IP
/// options.
pub(crate) fn has_valid_checksums(packet: &[u8]) -> bool {
    let (start, addresses, protocol) = match packet[0] >> 4 {
        4 => (20, &packet[12..20], packet[9]),
        _ => (40, &packet[8..40], packet[6]),
    };
    let ip = start == 40 || fold(words(&packet[..20])) == 0xffff;
    let pseudo = words(addresses) + u64::from(protocol) + (packet.len() - start) as u64;
    ip && fold(pseudo + words(&packet[start..])) == 0xffff
}

/// Any packet that could be a super-packet, with up to `max` bytes of payload.
pub(crate) fn any_spec(max: usize) -> impl Strategy<Value = Spec> {
    let ip = (any::<bool>(), any::<u8>(), any::<u8>(), any::<u16>(), any::<bool>(), any::<bool>());
    (ip, any_transport(), 0..max, any::<u8>()).prop_map(|(ip, transport, len, fill)| {
        let (v6, tos, ttl, id, dont_fragment, ip_options) = ip;
        let payload = (0..len).map(|index| fill.wrapping_add((index * 7 / 3) as u8)).collect();
        Spec { v6, tos, ttl, id, dont_fragment, ip_options, transport, ..Spec::udp(payload) }
    })
}

fn any_transport() -> impl Strategy<Value = Transport> {
    let tcp = (
        any::<u32>(),
        any::<u32>(),
        any::<u8>(),
        any::<u16>(),
        any::<u16>(),
        vec(any::<[u8; 4]>(), 0..=10),
    );
    prop_oneof![
        Just(Transport::Udp),
        tcp.prop_map(|(sequence, acknowledged, flags, window, urgent, options)| Transport::Tcp {
            sequence,
            acknowledged,
            flags,
            window,
            urgent,
            options: options.concat(),
        }),
    ]
}

//! Capture files in the format pcap (draft-ietf-opsawg-pcap).

use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

/// The packets of a capture file.
#[derive(Clone, Debug, Default)]
pub struct Pcap {
    packets: Vec<Packet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The packet from its Ethernet header on.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// The IP packet in the frame; `None` for other protocols, such as ARP.
    pub fn ip(&self) -> Option<&[u8]> {
        let kind = self.bytes.get(12..14)?;
        (kind == [0x08, 0x00] || kind == [0x86, 0xdd]).then(|| &self.bytes[14..])
    }

    /// Whether it is an ICMP error "fragmentation needed" (RFC 792) or "packet too big" (RFC 4443).
    pub fn is_too_big_error(&self) -> bool {
        let Some(ip) = self.ip() else { return false };
        match ip.first().map(|byte| byte >> 4) {
            Some(4) => ip.get(9) == Some(&1) && ip.get(20..22) == Some(&[3, 4]),
            Some(6) => ip.get(6) == Some(&58) && ip.get(40) == Some(&2),
            _ => false,
        }
    }

    /// Whether the frame contains `canary`; false for an empty one.
    pub fn contains(&self, canary: &[u8]) -> bool {
        !canary.is_empty() && self.bytes.windows(canary.len()).any(|window| window == canary)
    }
}

impl Pcap {
    /// Reads a file in this machine's byte order. A record that is still being written is skipped.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("in {}", path.display()))
    }

    /// The packets, oldest first.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Whether any packet contains `canary`. An empty capture contains nothing, so check
    /// [`Self::packets`] too.
    pub fn contains(&self, canary: &[u8]) -> bool {
        self.packets.iter().any(|packet| packet.contains(canary))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        const NANOSECONDS: u32 = 0xa1b2_3c4d;
        let Some(header) = bytes.get(..HEADER) else {
            return Ok(Self::default());
        };
        let magic = word(header, 0);
        ensure!(
            [MICROSECONDS, NANOSECONDS].contains(&magic),
            "{magic:#x} is not pcap's magic number"
        );
        ensure!(word(header, 20) == ETHERNET, "link type {} is not Ethernet", word(header, 20));
        let mut packets = Vec::new();
        let mut rest = &bytes[HEADER..];
        while let Some((record, after)) = rest.split_at_checked(16) {
            let (captured, length) = (word(record, 8), word(record, 12));
            let Some((packet, after)) = after.split_at_checked(captured as usize) else {
                break;
            };
            if captured < length {
                bail!("a packet of {length} bytes is truncated to {captured}");
            }
            packets.push(Packet { bytes: packet.to_vec() });
            rest = after;
        }
        Ok(Self { packets })
    }
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const HEADER: usize = 24;

/// The header of a file: magic number, version 2.4, two unused words, maximum length, link type.
pub(crate) fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MICROSECONDS.to_ne_bytes());
    header[4..6].copy_from_slice(&2_u16.to_ne_bytes());
    header[6..8].copy_from_slice(&4_u16.to_ne_bytes());
    header[16..20].copy_from_slice(&0x4_0000_u32.to_ne_bytes());
    header[20..].copy_from_slice(&ETHERNET.to_ne_bytes());
    header
}

/// Writes a packet with the current time: seconds, microseconds, the length twice, the bytes.
pub(crate) fn write_record(file: &mut impl Write, packet: &[u8]) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = u32::try_from(packet.len()).map_err(io::Error::other)?;
    // The format's seconds wrap in 2106.
    #[expect(clippy::cast_possible_truncation, reason = "32 bits in the format")]
    let seconds = now.as_secs() as u32;
    for word in [seconds, now.subsec_micros(), length, length] {
        file.write_all(&word.to_ne_bytes())?;
    }
    file.write_all(packet)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(packets: &[&[u8]]) -> Vec<u8> {
        let mut bytes = header().to_vec();
        for packet in packets {
            write_record(&mut bytes, packet).unwrap();
        }
        bytes
    }

    #[test]
    fn a_canary_is_found_within_a_packet_and_not_across_two() {
        let pcap = Pcap::parse(&file(&[b"..can", b"ary..", b"a canary"])).unwrap();
        assert_eq!(pcap.packets().len(), 3);
        assert!(pcap.contains(b"canary"));
        assert!(!pcap.packets()[0].contains(b"canary"));
        assert!(!pcap.contains(b""));
    }

    #[test]
    fn an_incomplete_record_is_skipped() {
        let mut bytes = file(&[b"whole", b"half"]);
        bytes.truncate(bytes.len() - 1);
        assert_eq!(Pcap::parse(&bytes).unwrap().packets().len(), 1);
        assert_eq!(Pcap::parse(&bytes[..10]).unwrap().packets().len(), 0);
    }

    #[test]
    fn a_truncated_packet_is_an_error() {
        let mut bytes = file(&[b"cut"]);
        bytes[24 + 12] = 99;
        Pcap::parse(&bytes).unwrap_err();
    }
}

//! TCP MSS clamping, in place.
//!
//! A host behind a site's ordinary MTU offers an MSS that is too large for the path between two
//! edges. Lowering it in both SYNs saves the flow from fragmentation.

use crate::{
    checksum::adjust,
    ip::{Fragment, Packet, TCP},
};

/// Lowers the MSS options of a SYN or SYN-ACK to what an IP packet of `max_packet` bytes has room
/// for: 40 bytes less over IPv4, 60 over IPv6 (RFC 6691). Updates the TCP checksum (RFC 1624),
/// which must be complete, not the partial one of an offloaded packet. True if an option was
/// lowered.
///
/// Nothing else is changed: other packets, smaller values, a SYN without the option (its receiver
/// assumes 536 or 1220 bytes, RFC 9293 §3.7.1), options that run past the header.
#[inline]
pub fn clamp_mss(packet: &mut [u8], max_packet: usize) -> bool {
    let Ok(view) = Packet::parse(packet) else { return false };
    if !is_syn(&view) {
        return false;
    }
    let headers = if view.is_ipv6() { 60 } else { 40 };
    let max = u16::try_from(max_packet.saturating_sub(headers)).unwrap_or(u16::MAX);
    let start = view.transport_offset();
    clamp_options(&mut packet[start..], max)
}

/// Whether the packet opens a TCP connection, from either side.
#[inline]
#[must_use]
pub fn is_syn(packet: &Packet<'_>) -> bool {
    packet.protocol() == TCP
        && packet.fragment() != Fragment::Later
        && packet.transport().get(13).is_some_and(|flags| flags & 0x02 != 0)
}

/// Clamps the options (RFC 9293 §3.2) of the TCP header at the start of `tcp`.
fn clamp_options(tcp: &mut [u8], max: u16) -> bool {
    let Some(offset) = tcp.get(12) else { return false };
    let end = usize::from(offset >> 4) * 4;
    if end > tcp.len() {
        return false;
    }
    let mut lowered = false;
    let mut at = 20;
    while at < end {
        let len = match tcp[at..end] {
            [0, ..] => break,
            [1, ..] => 1,
            [2, 4, _, _, ..] => {
                lowered |= lower_mss(tcp, at + 2, max);
                4
            }
            [_, len, ..] if len >= 2 => usize::from(len),
            _ => break,
        };
        at += len;
    }
    lowered
}

/// Lowers the two bytes at `at` (at least 22) to `max`.
fn lower_mss(tcp: &mut [u8], at: usize, max: u16) -> bool {
    let old = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if old <= max {
        return false;
    }
    [tcp[at], tcp[at + 1]] = max.to_be_bytes();
    let checksum = u16::from_be_bytes([tcp[16], tcp[17]]);
    // At an odd offset the value's bytes are in two words of the sum, swapped. A sum of swapped
    // words is the swapped sum (RFC 1071 §2 B).
    let checksum = if at.is_multiple_of(2) {
        adjust(checksum, old, max)
    } else {
        adjust(checksum, old.swap_bytes(), max.swap_bytes())
    };
    [tcp[16], tcp[17]] = checksum.to_be_bytes();
    true
}

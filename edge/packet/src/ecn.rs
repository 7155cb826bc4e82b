//! Explicit congestion notification: reading, marking, and a tunnel's egress (RFC 6040).

use crate::checksum::adjust;

/// The ECN field (RFC 3168 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The sender doesn't support ECN.
    NotEct = 0b00,
    /// ECN-capable, L4S.
    Ect1 = 0b01,
    /// ECN-capable.
    Ect0 = 0b10,
    /// Congestion was experienced.
    Ce = 0b11,
}

/// What to do with an inner packet after the outer header's ECN field was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EcnVerdict {
    /// Forward it; nothing was changed.
    Unchanged,
    /// Forward it; it is now marked CE.
    Marked,
    /// Drop it: its sender understands only loss.
    Drop,
}

impl Ecn {
    /// The field of the IP packet `packet`; [`Ecn::NotEct`] if it is too short to have one.
    #[inline]
    #[must_use]
    pub fn of(packet: &[u8]) -> Self {
        let bits = match packet {
            [first, second, ..] if first >> 4 == 6 => second >> 4,
            [_, second, ..] => *second,
            _ => 0,
        };
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// Applies the outer ECN field at the end of a tunnel: RFC 6040 §4.2, of which only the row of an
/// outer CE changes anything, as the outer header is never ECT(1).
///
/// `inner` must be a packet that [`crate::ip::Packet::parse`] accepted.
#[inline]
#[must_use]
pub fn apply_ecn(inner: &mut [u8], outer_ce: bool) -> EcnVerdict {
    if !outer_ce {
        return EcnVerdict::Unchanged;
    }
    match Ecn::of(inner) {
        Ecn::NotEct => EcnVerdict::Drop,
        Ecn::Ce => EcnVerdict::Unchanged,
        Ecn::Ect0 | Ecn::Ect1 => {
            set_ce(inner);
            EcnVerdict::Marked
        }
    }
}

/// Marks a packet CE and updates the IPv4 header checksum. Anything shorter than an IP header stays
/// unchanged.
#[inline]
pub fn set_ce(packet: &mut [u8]) {
    match packet {
        [first, second, ..] if *first >> 4 == 6 => *second |= 0b11 << 4,
        [first, tos, _, _, _, _, _, _, _, _, high, low, ..] if *first >> 4 == 4 => {
            let old = u16::from_be_bytes([*first, *tos]);
            let checksum = adjust(u16::from_be_bytes([*high, *low]), old, old | 0b11);
            *tos |= 0b11;
            [*high, *low] = checksum.to_be_bytes();
        }
        _ => {}
    }
}

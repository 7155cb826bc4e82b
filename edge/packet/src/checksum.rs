//! The internet checksum: RFC 1071, updated in place by RFC 1624.

/// A ones' complement sum that is not yet folded.
///
/// Parts may be added in any order, but each part that another one follows in the checksummed data
/// must have an even length. A sum of up to 2³² parts of 64 KiB can't overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, padded with a zero to an even length.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // The sum is the same in any byte order (RFC 1071 §2 B), so words are added as the machine
        // reads them, four bytes at a time into eight, which compilers turn into vector code.
        let words = bytes.chunks_exact(4);
        let mut last = [0; 4];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        let sum: u64 = words
            .map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
            .sum();
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds one word, in host order.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// Subtracts one word, in host order.
    #[inline]
    #[must_use]
    pub fn without(self, word: u16) -> Self {
        self.word(!word)
    }

    /// Adds the sum of another part.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum in 16 bits, host order: 0xffff over data with a valid checksum.
    #[inline]
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(sum as u16)
    }

    /// The value of the checksum field, host order.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// The new checksum after one word of the data changed from `old` to `new` (RFC 1624 §3,
/// equation 3).
#[inline]
#[must_use]
pub fn adjust(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::default().word(!checksum).without(old).word(new).checksum()
}

/// Does in software what `VIRTIO_NET_HDR_F_NEEDS_CSUM` leaves to the device: sums `packet` from
/// `start` to its end, where the field at `start + offset` already holds the pseudo header's sum,
/// and writes the checksum there (`skb_checksum_help` in the kernel's net/core/dev.c).
///
/// False, and nothing is written, when the field isn't inside the packet.
#[inline]
#[must_use]
pub fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(data) = packet.get_mut(start..) else { return false };
    let checksum = Sum::of(data).checksum();
    let Some(field) = data.get_mut(offset..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
        return false;
    };
    // Zero would mean "no checksum" in UDP; in all other protocols both values are the same number.
    *field = if checksum == 0 { [0xff; 2] } else { checksum.to_be_bytes() };
    true
}

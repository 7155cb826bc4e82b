//! The few netlink messages of nf_tables that are read and written without `nft`: linux/netlink.h,
//! linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h. Pure.

/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;

/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;

pub(super) const HEADER_LEN: usize = 16;
/// `struct nfgenmsg`.
const FAMILY_LEN: usize = 4;

/// Message types, without the subsystem.
pub(super) mod kind {
    pub(in crate::host::firewall) const NEW_RULE: u8 = 6;
    pub(in crate::host::firewall) const GET_RULE: u8 = 7;
    pub(in crate::host::firewall) const NEW_ELEMENTS: u8 = 12;
    pub(in crate::host::firewall) const GET_ELEMENTS: u8 = 13;
    pub(in crate::host::firewall) const NEW_GENERATION: u8 = 15;
    pub(in crate::host::firewall) const NEW_OBJECT: u8 = 18;
    pub(in crate::host::firewall) const GET_OBJECT: u8 = 19;
}

/// Attribute types.
pub(super) mod attribute {
    /// The table's name, in messages about anything in it.
    pub(in crate::host::firewall) const TABLE: u16 = 1;
    /// The name of a set or an object.
    pub(in crate::host::firewall) const NAME: u16 = 2;
    pub(in crate::host::firewall) const OBJECT_TYPE: u16 = 3;
    pub(in crate::host::firewall) const OBJECT_DATA: u16 = 4;
    pub(in crate::host::firewall) const COUNTER_PACKETS: u16 = 2;
    pub(in crate::host::firewall) const RULE_HANDLE: u16 = 3;
    pub(in crate::host::firewall) const ELEMENTS: u16 = 3;
    pub(in crate::host::firewall) const ELEMENT_KEY: u16 = 1;
    pub(in crate::host::firewall) const VALUE: u16 = 1;
    pub(in crate::host::firewall) const PROCESS_ID: u16 = 2;
    pub(in crate::host::firewall) const PROCESS_NAME: u16 = 3;
}

/// `NLM_F_*`.
pub(super) mod flag {
    pub(in crate::host::firewall) const REQUEST: u16 = 1;
    pub(in crate::host::firewall) const ACK: u16 = 4;
    pub(in crate::host::firewall) const DUMP: u16 = 0x300;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of [`kind`].
    Nftables(u8),
    /// The end of a dump.
    Done,
    /// An error, or with 0 an acknowledgement.
    Error(i32),
    Other,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    pub(super) sequence: u32,
    /// The socket that made the change.
    pub(super) port: u32,
    pub(super) family: u8,
    pub(super) attributes: &'a [u8],
}

impl<'a> Message<'a> {
    /// The content of the first attribute of this type.
    pub(super) fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        attributes(self.attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// Whether it is about this table or something in it.
    pub(super) fn is_about(&self, table: &str) -> bool {
        let name = self.attribute(attribute::TABLE);
        self.family == INET && name.is_some_and(|name| text(name) == table.as_bytes())
    }
}

/// The messages of a datagram. What is cut off is left out.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER_LEN)?;
        let length = usize::try_from(u32_at(header, 0)?).ok()?;
        let body = datagram.get(HEADER_LEN..length)?;
        let (kind, sequence, port) = (u16_at(header, 4)?, u32_at(header, 8)?, u32_at(header, 12)?);
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
        let kind = match kind {
            2 => Kind::Error(u32_at(body, 0)?.cast_signed()),
            3 => Kind::Done,
            other if other >> 8 == SUBSYSTEM => Kind::Nftables((other & 0xff) as u8),
            _ => Kind::Other,
        };
        let family = body.first().copied().unwrap_or_default();
        let attributes = body.get(FAMILY_LEN..).unwrap_or_default();
        Some(Message { kind, sequence, port, family, attributes })
    })
}

/// Types and contents of attributes.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        // Without the flags for nested attributes and byte order.
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A string without its NUL.
pub(super) fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in network byte order, of up to eight bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A request about the table of this family [`INET`].
pub(super) fn request(kind: u8, flags: u16, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    message(
        SUBSYSTEM << 8 | u16::from(kind),
        flag::REQUEST | flags,
        sequence,
        [INET, 0, 0, 0],
        attributes,
    )
}

fn message(kind: u16, flags: u16, sequence: u32, family: [u8; 4], attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_LEN + FAMILY_LEN + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(family);
    message.extend(attributes);
    message
}

/// Appends an attribute with a string.
pub(super) fn push_text(attributes: &mut Vec<u8>, kind: u16, text: &str) {
    push(attributes, kind, &[text.as_bytes(), &[0]].concat());
}

pub(super) fn push(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    attributes.extend((4 + value.len() as u16).to_ne_bytes());
    attributes.extend(kind.to_ne_bytes());
    attributes.extend(value);
    attributes.resize(aligned(attributes.len()), 0);
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_a_cut_one_is_left_out() {
        let mut attributes = Vec::new();
        push_text(&mut attributes, attribute::TABLE, "cframe-cframe0");
        push(&mut attributes, attribute::RULE_HANDLE, &7_u64.to_be_bytes());
        let request = request(kind::GET_RULE, flag::DUMP, 9, &attributes);
        let found: Vec<_> = messages(&request).collect();
        let [message] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((message.kind, message.sequence), (Kind::Nftables(kind::GET_RULE), 9));
        assert!(message.is_about("cframe-cframe0") && !message.is_about("cframe-cframe"));
        assert_eq!(message.attribute(attribute::RULE_HANDLE).map(number), Some(7));
        for length in 0..request.len() {
            for message in messages(&request[..length]) {
                assert!(message.attributes.len() < attributes.len());
            }
        }
    }

    #[test]
    fn anything_can_be_read_without_a_panic() {
        for seed in 0..2_000_u32 {
            let bytes: Vec<u8> =
                (0..64_u32).map(|n| (seed.wrapping_mul(n * n + 31) >> 3) as u8 % 24).collect();
            for message in messages(&bytes) {
                for (_, value) in attributes(message.attributes) {
                    let _ = (number(value), text(value));
                }
            }
        }
    }
}

//! The first thing each side says on a link, on a stream of its own.

/// `[version u8 = 1][boot id 16 bytes][epoch u64, big endian]`; a later version may be longer, and
/// begins with the same bytes.
pub(crate) const LEN: usize = 1 + 16 + 8;
const VERSION: u8 = 1;

/// Who speaks: which start of the process, and how often it has dialled this peer since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hello {
    pub(crate) boot: [u8; 16],
    pub(crate) epoch: u64,
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.boot);
        bytes[17..].copy_from_slice(&self.epoch.to_be_bytes());
        bytes
    }
}

/// Collects a hello that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: [u8; LEN],
    len: usize,
}

impl Reader {
    /// Takes more of the stream. `Ok(None)`: not whole yet. What follows a whole hello is left for
    /// later versions.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Option<Hello>, &'static str> {
        let take = chunk.len().min(LEN - self.len);
        self.bytes[self.len..self.len + take].copy_from_slice(&chunk[..take]);
        self.len += take;
        if self.len > 0 && self.bytes[0] < VERSION {
            return Err("its hello has version 0, the first is 1");
        }
        if self.len < LEN {
            return Ok(None);
        }
        let (mut boot, mut epoch) = ([0; 16], [0; 8]);
        boot.copy_from_slice(&self.bytes[1..17]);
        epoch.copy_from_slice(&self.bytes[17..]);
        Ok(Some(Hello { boot, epoch: u64::from_be_bytes(epoch) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_has_these_bytes_and_survives_any_cut() {
        let hello = Hello { boot: *b"0123456789abcdef", epoch: 0x0102 };
        let bytes = hello.encode();
        assert_eq!(&bytes, b"\x010123456789abcdef\0\0\0\0\0\0\x01\x02");
        for cut in 0..LEN {
            let mut reader = Reader::default();
            assert_eq!(reader.push(&bytes[..cut]), Ok(None));
            assert_eq!(reader.push(&bytes[cut..]), Ok(Some(hello)));
        }
    }

    #[test]
    fn version_zero_is_an_error_and_a_later_version_may_say_more() {
        assert!(Reader::default().push(&[0; LEN]).is_err());
        let longer = [[2; LEN].as_slice(), b"more"].concat();
        assert!(Reader::default().push(&longer).unwrap().is_some());
    }
}

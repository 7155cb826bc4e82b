//! The hello: the first message of each side on a link, on a unidirectional stream of its own.

use quinn_proto::{Connection, Dir, ReadError, StreamId};

/// `[version u8 = 1][boot id 16 bytes][epoch u64, big endian]`; a later version may be longer, and
/// starts with the same fields.
const LEN: usize = 1 + 16 + 8;
const VERSION: u8 = 1;

/// Which start of the process sent it, and how often that has dialled the peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hello {
    pub(crate) boot: [u8; 16],
    pub(crate) epoch: u64,
}

/// Both hellos of one link.
#[derive(Debug, Default)]
pub(crate) struct HelloExchange {
    /// The epoch in our hello.
    pub(crate) epoch: u64,
    pub(crate) theirs: Option<Hello>,
    stream: Option<StreamId>,
    reader: Reader,
}

impl HelloExchange {
    /// Sends our hello; false if the peer's stream limits don't allow it.
    pub(crate) fn send(&self, conn: &mut Connection, boot: [u8; 16]) -> bool {
        let hello = Hello { boot, epoch: self.epoch };
        let Some(stream) = conn.streams().open(Dir::Uni) else { return false };
        conn.send_stream(stream).write(&hello.encode()) == Ok(LEN)
    }

    /// Reads what has arrived of the peer's hello; returns it once, when it is complete.
    pub(crate) fn receive(&mut self, conn: &mut Connection) -> Result<Option<Hello>, &'static str> {
        if self.stream.is_none() {
            self.stream = conn.streams().accept(Dir::Uni);
        }
        let (Some(stream), None) = (self.stream, self.theirs) else { return Ok(None) };
        let mut stream = conn.recv_stream(stream);
        let mut chunks = stream.read(true).map_err(|_| "the peer's hello cannot be read")?;
        let result = loop {
            match chunks.next(LEN) {
                Ok(Some(chunk)) => match self.reader.push(&chunk.bytes) {
                    Ok(None) => {}
                    done => break done,
                },
                Err(ReadError::Blocked) => break Ok(None),
                Ok(None) | Err(ReadError::Reset(_)) => break Err("the peer's hello is incomplete"),
            }
        };
        let _ = chunks.finalize();
        self.theirs = result?;
        Ok(self.theirs)
    }
}

impl Hello {
    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.boot);
        bytes[17..].copy_from_slice(&self.epoch.to_be_bytes());
        bytes
    }
}

/// Collects a hello that arrives in pieces.
#[derive(Debug, Default)]
struct Reader {
    bytes: [u8; LEN],
    len: usize,
}

impl Reader {
    /// Adds more of the stream. `Ok(None)`: not complete yet. Bytes after a complete hello belong
    /// to later versions and are ignored.
    fn push(&mut self, chunk: &[u8]) -> Result<Option<Hello>, &'static str> {
        let take = chunk.len().min(LEN - self.len);
        self.bytes[self.len..self.len + take].copy_from_slice(&chunk[..take]);
        self.len += take;
        if self.len > 0 && self.bytes[0] < VERSION {
            return Err("the peer's hello has version 0; the lowest is 1");
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
    fn a_hello_has_these_bytes_and_may_arrive_in_any_two_pieces() {
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
    fn version_zero_is_an_error_and_a_later_version_may_be_longer() {
        assert!(Reader::default().push(&[0; LEN]).is_err());
        let longer = [[2; LEN].as_slice(), b"more"].concat();
        assert!(Reader::default().push(&longer).unwrap().is_some());
    }
}

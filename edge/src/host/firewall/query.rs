//! What is in the kernel's table, read over netlink: `nft` would read all of its prefixes for any question.

use std::{collections::BTreeSet, io, time::Duration};

use bytes::BytesMut;
use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};
use tokio::time::timeout;

use super::{
    Dropped,
    wire::{self, Kind, Message, attribute, flag, kind},
};

const TIMEOUT: Duration = Duration::from_secs(5);
const DATAGRAM: usize = 64 << 10;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;

pub(super) struct Query {
    socket: TokioSocket,
    table: String,
    sequence: u32,
    /// The number of the socket.
    pub(super) port: u32,
}

impl Query {
    pub(super) fn open(table: String) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        let port = socket.socket_mut().bind_auto()?.port_number();
        Ok(Self { socket, table, sequence: 0, port })
    }

    /// The handles of all rules; empty if the table is missing.
    pub(super) async fn rules(&mut self) -> io::Result<BTreeSet<u64>> {
        let mut handles = BTreeSet::new();
        let table = self.table.clone();
        self.dump(kind::GET_RULE, self.attributes(None), |message| {
            if message.kind == Kind::Nftables(kind::NEW_RULE) && message.is_about(&table) {
                handles.extend(message.attribute(attribute::RULE_HANDLE).map(wire::number));
            }
        })
        .await?;
        Ok(handles)
    }

    /// The keys of a set or map.
    pub(super) async fn keys(&mut self, set: &str) -> io::Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        self.dump(kind::GET_ELEMENTS, self.attributes(Some(set)), |message| {
            if message.kind == Kind::Nftables(kind::NEW_ELEMENTS) {
                let elements = message.attribute(attribute::ELEMENTS).unwrap_or_default();
                for (_, element) in wire::attributes(elements) {
                    let key = nested(element, attribute::ELEMENT_KEY);
                    keys.extend(
                        key.and_then(|key| nested(key, attribute::VALUE)).map(<[u8]>::to_vec),
                    );
                }
            }
        })
        .await?;
        Ok(keys)
    }

    /// Packets that were dropped since the table was made.
    pub(super) async fn dropped(&mut self) -> io::Result<Dropped> {
        Ok(Dropped {
            foreign: self.counter("leaks").await?,
            uncovered: self.counter("uncovered").await?,
        })
    }

    async fn counter(&mut self, name: &str) -> io::Result<u64> {
        let mut attributes = self.attributes(Some(name));
        wire::push(&mut attributes, attribute::OBJECT_TYPE, &COUNTER.to_be_bytes());
        self.sequence += 1;
        let request = wire::request(kind::GET_OBJECT, flag::ACK, self.sequence, &attributes);
        let mut packets = 0;
        self.exchange(request, |message| {
            if message.kind == Kind::Nftables(kind::NEW_OBJECT) {
                let data = message.attribute(attribute::OBJECT_DATA).unwrap_or_default();
                packets = nested(data, attribute::COUNTER_PACKETS).map_or(0, wire::number);
            }
        })
        .await?;
        Ok(packets)
    }

    /// The name of a device; its number, if it is gone.
    pub(super) fn device_name(&self, index: u32) -> String {
        let name = rustix::net::netdevice::index_to_name(self.socket.socket_ref(), index);
        name.unwrap_or_else(|_| index.to_string())
    }

    fn attributes(&self, name: Option<&str>) -> Vec<u8> {
        let mut attributes = Vec::new();
        wire::push_text(&mut attributes, attribute::TABLE, &self.table);
        if let Some(name) = name {
            wire::push_text(&mut attributes, attribute::NAME, name);
        }
        attributes
    }

    async fn dump(
        &mut self,
        kind: u8,
        attributes: Vec<u8>,
        each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.sequence += 1;
        let request = wire::request(kind, flag::DUMP, self.sequence, &attributes);
        self.exchange(request, each).await
    }

    /// Sends a request and reads its answers, up to the acknowledgement or the end of the dump.
    async fn exchange(&self, request: Vec<u8>, each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.socket.send_to(&request, &SocketAddr::new(0, 0)).await?;
        let answers = timeout(TIMEOUT, self.answers(each)).await;
        answers.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn answers(&self, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut buffer = BytesMut::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer).await?;
            // Answers to an earlier request that timed out have another number.
            for message in wire::messages(&buffer).filter(|m| m.sequence == self.sequence) {
                match message.kind {
                    Kind::Done | Kind::Error(0) => return Ok(()),
                    Kind::Error(error) => {
                        return Err(io::Error::from_raw_os_error(error.saturating_neg()));
                    }
                    Kind::Nftables(_) | Kind::Other => each(message),
                }
            }
        }
    }
}

/// An attribute inside another.
fn nested(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    wire::attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

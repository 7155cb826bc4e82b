//! Whether an address answers at all, asked from a socket of its own for each address where dials fail.
//!
//! A connected socket gets the ICMP errors that the links' own socket does not, and a new port shows
//! whether only the flow of the links is lost.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use cframe_mesh::probe;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, task::JoinSet, time::timeout};

use crate::{judge::links::Reach, state};

/// How often an address is asked.
const INTERVAL: Duration = Duration::from_secs(4);
/// Addresses that are asked at a time.
const MAX_ASKED: usize = 32;
/// An answer is waited for as long as this.
const TIMEOUT: Duration = Duration::from_millis(1200);

#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// The mark of the edge's own packets.
    mark: u32,
    found: HashMap<SocketAddr, (Instant, Reach)>,
    in_progress: HashSet<SocketAddr>,
    tasks: JoinSet<(SocketAddr, Reach)>,
}

impl Reachability {
    pub(super) fn new(mark: u32) -> Self {
        Self { mark, ..Self::default() }
    }

    /// Takes what was found, and asks these addresses again if it is time to. Forgets all others.
    pub(super) fn ask(&mut self, now: Instant, addresses: &HashSet<SocketAddr>) {
        while let Some(Ok((address, reach))) = self.tasks.try_join_next() {
            self.in_progress.remove(&address);
            self.found.insert(address, (now, reach));
        }
        self.found.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let recent = |(at, _): &(Instant, Reach)| now.duration_since(*at) < INTERVAL;
            let due = !self.found.get(address).is_some_and(recent);
            if due && self.tasks.len() < MAX_ASKED && self.in_progress.insert(*address) {
                let (address, mark) = (*address, self.mark);
                self.tasks.spawn(async move { (address, reach(address, mark).await) });
            }
        }
    }

    pub(super) fn at(&self, address: SocketAddr) -> Option<Reach> {
        self.found.get(&address).map(|(_, reach)| *reach)
    }
}

async fn reach(address: SocketAddr, mark: u32) -> Reach {
    let marked = exchange(address, Some(mark)).await;
    match marked {
        Reach::NotPermitted { .. } => {
            let unmarked = exchange(address, None).await;
            Reach::NotPermitted { marked_only: !matches!(unmarked, Reach::NotPermitted { .. }) }
        }
        Reach::Nothing => match exchange(address, None).await {
            // What others send there is answered.
            Reach::Answered | Reach::FirstOnly => Reach::NotPermitted { marked_only: true },
            Reach::Nothing
            | Reach::PortClosed
            | Reach::Unreachable
            | Reach::NotPermitted { .. } => Reach::Nothing,
        },
        Reach::Answered | Reach::FirstOnly | Reach::PortClosed | Reach::Unreachable => marked,
    }
}

async fn exchange(address: SocketAddr, mark: Option<u32>) -> Reach {
    let asked = async {
        let socket = open(address, mark)?;
        if !ask(&socket).await? {
            return Ok(Reach::Nothing);
        }
        // Three times: one may be lost.
        for _ in 0..3 {
            if ask(&socket).await? {
                return Ok(Reach::Answered);
            }
        }
        Ok(Reach::FirstOnly)
    };
    asked.await.unwrap_or_else(|error: io::Error| meaning(&error))
}

/// Sends a probe; whether it was answered.
async fn ask(socket: &UdpSocket) -> io::Result<bool> {
    let token: [u8; 16] = state::random().map_err(io::Error::other)?;
    socket.send(&probe::request(token, probe::SMALL)).await?;
    let mut answer = [0; probe::SMALL];
    match timeout(TIMEOUT, socket.recv(&mut answer)).await {
        Ok(len) => Ok(probe::is_answer(&answer[..len?], token)),
        Err(_) => Ok(false),
    }
}

fn open(address: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.set_nonblocking(true)?;
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    socket.bind(&any.into())?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn meaning(error: &io::Error) -> Reach {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => Reach::PortClosed,
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => Reach::Unreachable,
        Some(Errno::PERM | Errno::ACCESS) => Reach::NotPermitted { marked_only: false },
        _ => Reach::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_an_answer_and_a_first_answer_are_told_apart() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(exchange(closed, None).await, Reach::PortClosed);
        for (answers, expected) in
            [(9, Reach::Answered), (1, Reach::FirstOnly), (0, Reach::Nothing)]
        {
            let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = peer.local_addr().unwrap();
            let answering = tokio::spawn(async move {
                let mut bytes = [0; 2048];
                for count in 0.. {
                    let (len, from) = peer.recv_from(&mut bytes).await.unwrap();
                    // Its first byte makes an answer of a request.
                    bytes[0] += 1;
                    if count < answers {
                        peer.send_to(&bytes[..len], from).await.unwrap();
                    }
                }
            });
            assert_eq!(exchange(address, None).await, expected);
            answering.abort();
        }
    }
}

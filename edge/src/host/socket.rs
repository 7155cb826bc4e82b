//! The UDP socket of all links: dual-stack, marked, with GSO, GRO, ECN and the local address.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::{io::Errno, net::sockopt};
use socket2::{Domain, Protocol, Socket as Raw, Type};
use tracing::warn;

use crate::sys;

/// In bytes: one inner TCP flow's window at Linux's default `tcp_rmem`, so that a single flow does not lose
/// whole batches here. With half of it, a flow of 4 Gbit/s on two cores lost a thousand packets a second, at
/// the same delay.
const RECEIVE_BUFFER: usize = 2 << 20;

/// In bytes: a few GSO batches. All links share it, and a slow one must not fill it for long.
const SEND_BUFFER: usize = 512 << 10;

#[derive(Debug)]
pub struct Socket {
    raw: Raw,
    state: UdpSocketState,
    v6: bool,
}

/// TCP connections that wait to be accepted.
const BACKLOG: i32 = 128;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("UDP port {0} is in use: another instance needs another port (--listen)")]
    InUse(u16),
    #[error("not allowed to mark packets (SO_MARK): CAP_NET_ADMIN is needed")]
    Mark(#[source] io::Error),
    #[error("UDP port {port}: {source}")]
    Failed { port: u16, source: io::Error },
}

impl Socket {
    /// Binds `[::]:port`, or `0.0.0.0:port` where IPv6 is off, with a mark that the policy
    /// rule excludes.
    pub fn bind(port: u16, mark: u32) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Failed { port, source };
        let (raw, v6) = match open(Ipv6Addr::UNSPECIFIED.into(), port) {
            Ok(raw) => (raw, true),
            Err(error) if ipv6_is_off(&error) => {
                (open(Ipv4Addr::UNSPECIFIED.into(), port).map_err(|e| in_use(port, e))?, false)
            }
            Err(error) => return Err(in_use(port, error)),
        };
        raw.set_mark(mark).map_err(SocketError::Mark)?;
        let state = UdpSocketState::new(UdpSockRef::from(&raw)).map_err(failed)?;
        size_buffers(&raw).map_err(failed)?;
        Ok(Self { raw, state, v6 })
    }

    /// Fills up to `bufs.len()` buffers, each with one datagram or with several that the kernel coalesced.
    ///
    /// # Errors
    /// `WouldBlock` when there are none.
    pub fn receive(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        let count = self.state.recv(UdpSockRef::from(&self.raw), bufs, meta)?;
        for meta in &mut meta[..count] {
            meta.addr = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            meta.dst_ip = meta.dst_ip.map(|ip| ip.to_canonical());
        }
        Ok(count)
    }

    /// Datagrams dropped because the receive buffer was full, since the socket was opened; 0 if the kernel
    /// does not report it.
    pub fn overflowed(&self) -> u64 {
        sys::receive_overflow(&self.raw).unwrap_or(0)
    }

    /// Sends one datagram or a batch of equal length.
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; others concern only this transmit.
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mapped = Transmit {
            destination: SocketAddr::new(
                self.map(transmit.destination.ip()),
                transmit.destination.port(),
            ),
            src_ip: transmit.src_ip.map(|ip| self.map(ip)),
            ..transmit.clone()
        };
        self.state.try_send(UdpSockRef::from(&self.raw), &mapped)
    }

    /// The maximum number of datagrams for one [`send`](Self::send); 1 without GSO.
    pub fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// The port that the socket is bound to.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.raw.local_addr()?.as_socket().map_or(0, |address| address.port()))
    }

    /// A dual-stack socket takes IPv4 addresses only in their mapped form (RFC 4291 §2.5.5.2).
    fn map(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(v4) if self.v6 => v4.to_ipv6_mapped().into(),
            IpAddr::V4(_) | IpAddr::V6(_) => ip,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

/// The maximum number of buffers that one [`Socket::receive`] fills.
pub const RECEIVE_BATCH: usize = BATCH_SIZE;

/// Listens for TCP connections; `[::]` takes IPv4 too, whatever `net.ipv6.bindv6only` is, and is any IPv4 address where
/// IPv6 is off.
pub fn listen_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listen = |address: SocketAddr| {
        let raw = Raw::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            raw.set_only_v6(false)?;
        }
        // Connections of the previous process may still be closing.
        raw.set_reuse_address(true)?;
        raw.bind(&address.into())?;
        raw.listen(BACKLOG)?;
        raw.set_nonblocking(true)?;
        Ok(std::net::TcpListener::from(raw))
    };
    match listen(address) {
        Err(error) if ipv6_is_off(&error) && address.ip() == Ipv6Addr::UNSPECIFIED => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    }
}

fn open(ip: IpAddr, port: u16) -> io::Result<Raw> {
    let address = SocketAddr::new(ip, port);
    let raw = Raw::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if ip.is_ipv6() {
        raw.set_only_v6(false)?;
    }
    raw.bind(&address.into())?;
    Ok(raw)
}

fn ipv6_is_off(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT)
    )
}

fn in_use(port: u16, source: io::Error) -> SocketError {
    if source.kind() == io::ErrorKind::AddrInUse {
        return SocketError::InUse(port);
    }
    SocketError::Failed { port, source }
}

/// The `…FORCE` options exceed the limits in `net.core`. They need `CAP_NET_ADMIN` in the host's user
/// namespace.
fn size_buffers(raw: &Raw) -> io::Result<()> {
    let forced = sockopt::set_socket_recv_buffer_size_force(raw, RECEIVE_BUFFER)
        .and_then(|()| sockopt::set_socket_send_buffer_size_force(raw, SEND_BUFFER));
    if forced.is_ok() {
        return Ok(());
    }
    raw.set_recv_buffer_size(RECEIVE_BUFFER)?;
    raw.set_send_buffer_size(SEND_BUFFER)?;
    // The kernel doubles the requested size, and returns the doubled one.
    let (receive, send) = (raw.recv_buffer_size()? / 2, raw.send_buffer_size()? / 2);
    if receive < RECEIVE_BUFFER || send < SEND_BUFFER {
        warn!(
            receive,
            send,
            "small socket buffers: raise net.core.rmem_max and net.core.wmem_max to {RECEIVE_BUFFER}"
        );
    }
    Ok(())
}

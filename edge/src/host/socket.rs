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

/// What the kernel holds for us: an inner TCP flow's window at Linux's default `tcp_rmem`, so that one
/// flow does not lose whole batches here. Of half of this it lost a thousand packets a second at
/// 4 Gbit/s on two cores, and its delay was the same.
const RECEIVE_BUFFER: usize = 2 << 20;

/// A few GSO batches: all links share it, and a slow one must not fill it for long.
const SEND_BUFFER: usize = 512 << 10;

/// The socket.
#[derive(Debug)]
pub struct Socket {
    raw: Raw,
    state: UdpSocketState,
    v6: bool,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else listens there.
    #[error("UDP port {0} is in use: another instance needs another port (--listen)")]
    InUse(u16),
    /// The mark was refused.
    #[error("not allowed to mark packets (SO_MARK): CAP_NET_ADMIN is needed")]
    Mark(#[source] io::Error),
    /// Anything else.
    #[error("UDP port {port}: {source}")]
    Failed {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Socket {
    /// Binds `[::]:port`, or `0.0.0.0:port` where IPv6 is off, with the mark that the policy rule skips.
    ///
    /// # Errors
    /// When the port is in use or the mark is not allowed.
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

    /// Receives up to `bufs.len()` buffers, each of one datagram or of several that the kernel joined.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    pub fn receive(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        let count = self.state.recv(UdpSockRef::from(&self.raw), bufs, meta)?;
        for meta in &mut meta[..count] {
            meta.addr = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            meta.dst_ip = meta.dst_ip.map(|ip| ip.to_canonical());
        }
        Ok(count)
    }

    /// Datagrams lost because too many waited, since the socket was made; zero where the kernel doesn't
    /// say.
    pub fn overflowed(&self) -> u64 {
        sys::receive_overflow(&self.raw).unwrap_or(0)
    }

    /// Sends one datagram or a batch of equal ones.
    ///
    /// # Errors
    /// `WouldBlock` when the socket's buffer is full; others concern only this transmit.
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

    /// How many datagrams one [`send`](Self::send) may hold; 1 without GSO.
    pub fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// The port that it is bound to.
    ///
    /// # Errors
    /// Those of getsockname(2).
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

/// The largest number of buffers that one [`Socket::receive`] fills.
pub const RECEIVE_BATCH: usize = BATCH_SIZE;

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

/// `…FORCE` passes the limits in `net.core`, given `CAP_NET_ADMIN` in the host's user namespace.
fn size_buffers(raw: &Raw) -> io::Result<()> {
    let forced = sockopt::set_socket_recv_buffer_size_force(raw, RECEIVE_BUFFER)
        .and_then(|()| sockopt::set_socket_send_buffer_size_force(raw, SEND_BUFFER));
    if forced.is_ok() {
        return Ok(());
    }
    raw.set_recv_buffer_size(RECEIVE_BUFFER)?;
    raw.set_send_buffer_size(SEND_BUFFER)?;
    // The kernel doubles what it is asked for, and says what it has.
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

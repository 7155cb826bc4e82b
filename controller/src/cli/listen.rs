//! Listening for IPv4 and IPv6 with one socket, whatever the host's default (`net.ipv6.bindv6only`) is.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

pub(super) fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    bound(address, SocketType::DGRAM).map(UdpSocket::from)
}

pub(super) fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address, SocketType::STREAM)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// On a host without IPv6, `[::]` means any IPv4 address.
fn bound(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    match bound_to(address, kind) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
            if address.is_ipv6() && address.ip().is_unspecified() =>
        {
            Ok(bound_to(any_v4, kind)?)
        }
        other => Ok(other?),
    }
}

fn bound_to(address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    if kind == SocketType::STREAM {
        // Connections of the previous process may still be closing.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn the_unspecified_ipv6_address_takes_ipv4_too() {
        let any: SocketAddr = "[::]:0".parse().unwrap();
        let server = udp(any).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        client.send_to(b"x", ("127.0.0.1", port)).unwrap();
        assert_eq!(server.recv_from(&mut [0; 1]).unwrap().0, 1);
        let server = tcp(any).unwrap();
        TcpStream::connect(("127.0.0.1", server.local_addr().unwrap().port())).unwrap();
    }
}

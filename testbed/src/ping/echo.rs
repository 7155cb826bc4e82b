use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A raw ICMP socket for one target (RFC 792, RFC 4443). The payload starts with a random cookie,
/// which identifies this socket's replies, and a 64-bit sequence number, as ICMP's own wraps.
#[derive(Debug)]
pub(super) struct Echo {
    socket: Socket,
    target: SockAddr,
    v4: bool,
    cookie: u64,
    message_size: usize,
}

/// ICMP's header, the cookie and the sequence number.
const MIN_MESSAGE: usize = 8 + 8 + 8;

const MAX_IPV4_HEADER: usize = 60;

impl Echo {
    pub(super) fn open(target: IpAddr, packet_size: usize, dont_fragment: bool) -> Result<Self> {
        let v4 = target.is_ipv4();
        let header = if v4 { 20 } else { 40 };
        ensure!(
            (header + MIN_MESSAGE..=65_535).contains(&packet_size),
            "a packet size of {packet_size} bytes is not {} to 65535",
            header + MIN_MESSAGE
        );
        let (domain, protocol) =
            if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let socket =
            Socket::new(domain, Type::RAW, Some(protocol)).context("opening a raw socket")?;
        socket.set_nonblocking(true).context("setting the socket to non-blocking")?;
        match (dont_fragment, v4) {
            (false, _) => {}
            (true, true) => {
                set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE).context("setting DF")?
            }
            (true, false) => {
                set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)
                    .context("setting DF")?;
            }
        }
        let target = SocketAddr::new(target, 0).into();
        Ok(Self { socket, target, v4, cookie: rand::random(), message_size: packet_size - header })
    }

    pub(super) fn send(&self, sequence: u64) -> io::Result<()> {
        self.socket.send_to(&self.request(sequence), &self.target).map(drop)
    }

    /// Reads a packet and returns its sequence number if it is a reply to this socket's request.
    pub(super) fn receive(&self) -> Option<u64> {
        let mut packet = vec![0; MAX_IPV4_HEADER + self.message_size];
        let length = (&self.socket).read(&mut packet).ok()?;
        self.sequence_of(&packet[..length])
    }

    fn request(&self, sequence: u64) -> Vec<u8> {
        let mut message = vec![0; self.message_size];
        message[0] = if self.v4 { 8 } else { 128 };
        message[4..6].copy_from_slice(&self.cookie.to_be_bytes()[..2]);
        message[6..8].copy_from_slice(&sequence.to_be_bytes()[6..]);
        message[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        message[16..24].copy_from_slice(&sequence.to_be_bytes());
        if self.v4 {
            // For IPv6 the kernel computes the checksum.
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// Raw IPv4 sockets deliver the IP header too, raw IPv6 sockets don't.
    fn sequence_of(&self, packet: &[u8]) -> Option<u64> {
        let (message, reply) = if self.v4 {
            (packet.get(usize::from(packet.first()? & 0xf) * 4..)?, 0)
        } else {
            (packet, 129)
        };
        let ours = message.first() == Some(&reply)
            && message.len() == self.message_size
            && message.get(8..16)? == self.cookie.to_be_bytes();
        ours.then(|| message.get(16..24)?.try_into().ok().map(u64::from_be_bytes))?
    }
}

impl AsFd for Echo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&example), !0xddf2);
    }
}

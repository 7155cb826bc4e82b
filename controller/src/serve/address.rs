//! Addresses of peers.

use std::net::SocketAddr;

/// An IPv4 address that a socket of both families gives as an IPv6 one (RFC 4291 §2.5.5.2) is shown as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let shown = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(shown("[::ffff:192.0.2.7]:5"), "192.0.2.7:5");
        assert_eq!(shown("[2001:db8::7]:5"), "[2001:db8::7]:5");
    }
}

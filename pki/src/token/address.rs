//! Syntax of an address, `HOST:PORT`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::excerpt::excerpt;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not an address: expected HOST:PORT, where HOST is a DNS name, an IPv4 address or \
     an IPv6 address in brackets, and PORT is 1 to 65535"
)]
pub struct AddressError {
    value: String,
}

/// Accepts `NAME:PORT`, `IPV4:PORT` and `[IPV6]:PORT`, of at most 255 bytes.
pub(super) fn check(text: &str) -> Result<(), AddressError> {
    let fits = text.len() <= usize::from(u8::MAX);
    match text.rsplit_once(':') {
        Some((host, port)) if fits && is_host(host) && is_port(port) => Ok(()),
        _ => Err(AddressError { value: excerpt(text) }),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && matches!(text.parse::<u16>(), Ok(1..))
}

fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    // Resolvers take a name whose last label is a number for an IPv4 address (RFC 1123 §2.1).
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<Ipv4Addr>().is_ok()
        || text.split('.').all(is_label) && !text.rsplit('.').next().is_some_and(numeric)
}

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_all_three_kinds_are_accepted() {
        for text in [
            "controller:58421",
            "c1.mesh.Example.com:1",
            "192.0.2.1:65535",
            "[2001:db8::1]:58421",
            "svc_a.k8s.local:58421",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            ":1",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1 ",
            "a b:1",
            "2001:db8::1:58421",
            "[192.0.2.1]:1",
            "[::1:1",
            "1.2.3:1",
            "999.1.1.1:1",
            "a..b:1",
            "-a:1",
            "http://a:1",
            "a:1:2",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&format!("{}:1", vec!["a"; 150].join("."))).is_err(), "too long");
    }
}

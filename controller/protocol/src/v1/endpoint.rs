//! UDP addresses to dial.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A UDP address to dial: `203.0.113.7:58423`, `[2001:db8::7]:58423` or `gw.example.com:58423`.
///
/// The text is normalised: DNS names in lower case, IPv6 as in RFC 5952. In serde it is the text.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    text: Arc<str>,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not an endpoint: {reason}; expected HOST:PORT, such as 203.0.113.7:58423, \
     [2001:db8::7]:58423 or gw.example.com:58423"
)]
pub struct EndpointError {
    value: String,
    reason: &'static str,
}

impl Endpoint {
    /// An IPv4 address, an IPv6 address without brackets, or a DNS name.
    pub fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or("", |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// Never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `None` if the host is a DNS name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text)
            .map_err(|reason| EndpointError { value: text.chars().take(300).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
    let port = parse_port(port).ok_or("the port is not a number from 1 to 65535")?;
    let text = if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("the bracket is not closed")?;
        let ip: Ipv6Addr = inner.parse().map_err(|_| "there is no IPv6 address in the brackets")?;
        dialable(ip.into())?;
        format!("[{ip}]:{port}")
    } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
        dialable(ip.into())?;
        format!("{ip}:{port}")
    } else if host.contains(':') {
        return Err("an IPv6 address goes in brackets");
    } else {
        name_rule(host)?;
        format!("{}:{port}", host.to_ascii_lowercase())
    };
    Ok(Endpoint { text: text.into(), port })
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn dialable(ip: IpAddr) -> Result<(), &'static str> {
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err("nothing can be reached at this address");
    }
    Ok(())
}

/// RFC 1123 §2.1. The last label must not be a number, so that a mistyped IPv4 address isn't taken
/// for a name.
fn name_rule(host: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let label = |label: &str| {
        let hyphen = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && label.bytes().all(allowed) && !hyphen
    };
    if host.is_empty() {
        return Err("the host is empty");
    }
    if host.len() > 253 || !host.split('.').all(label) {
        return Err("the host is neither an IP address nor a DNS name");
    }
    let last = host.rsplit('.').next().unwrap_or(host);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the host ends in a number and is no IPv4 address");
    }
    Ok(())
}

impl From<SocketAddr> for Endpoint {
    /// Without the flow label and scope of IPv6.
    fn from(address: SocketAddr) -> Self {
        let port = address.port();
        let text = match address.ip() {
            IpAddr::V4(ip) => format!("{ip}:{port}"),
            IpAddr::V6(ip) => format!("[{ip}]:{port}"),
        };
        Self { text: text.into(), port }
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

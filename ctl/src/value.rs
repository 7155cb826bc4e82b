//! Parsers of flag values. They check the form; the controller checks the rest, such as overlaps.

use std::{net::IpAddr, time::Duration};

use cframe_pki::{
    Fingerprint, ParseHexError, Serial,
    identity::{Label, NameError},
};
use cframe_protocol::v1::{Endpoint, EndpointError};
use ipnet::IpNet;
use time::{
    Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description,
};

pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// A name, which is one DNS label.
pub fn label(text: &str) -> Result<Label, NameError> {
    text.parse()
}

/// A name, or `None` for an empty text. clap reads a plain `Option` as an optional flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionalLabel(pub Option<Label>);

pub fn optional_label(text: &str) -> Result<OptionalLabel, NameError> {
    if text.is_empty() { Ok(OptionalLabel(None)) } else { label(text).map(Some).map(OptionalLabel) }
}

/// `HOST:PORT`.
pub fn endpoint(text: &str) -> Result<Endpoint, EndpointError> {
    text.parse()
}

/// A certificate's serial in hex. Capitals and colons are allowed, as openssl prints it.
pub fn serial(text: &str) -> Result<Serial, ParseHexError> {
    text.replace(':', "").to_ascii_lowercase().parse()
}

/// SHA-256 of a public key in hex. Capitals and colons are allowed.
pub fn fingerprint(text: &str) -> Result<Fingerprint, ParseHexError> {
    text.replace(':', "").to_ascii_lowercase().parse()
}

/// A network without host bits.
pub fn cidr(text: &str) -> Result<IpNet, String> {
    let Some((address, length)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("it has no length; for this one address write {text}/32"),
            Ok(IpAddr::V6(_)) => format!("it has no length; for this one address write {text}/128"),
            Err(_) => "expected ADDRESS/LENGTH, such as 10.2.0.0/16 or fd00:60::/64".to_owned(),
        });
    };
    let ip: IpAddr = address.parse().map_err(|_| {
        format!("{address:?} is not an IP address; expected such as 10.2.0.0/16 or fd00:60::/64")
    })?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let net = length
        .parse()
        .ok()
        .filter(|_| digits)
        .and_then(|length| IpNet::new(ip, length).ok())
        .ok_or_else(|| format!("{length:?} is not a length from 0 to {longest}"))?;
    match net.trunc() {
        network if network == net => Ok(net),
        network => Err(format!("it has host bits set; did you mean {network}?")),
    }
}

/// A duration above zero, such as `500ms`, `90s`, `1h30m` or `2d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "expected such as 500ms, 90s, 1h30m or 2d";
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(span(rest, |byte| byte.is_ascii_digit()));
        let (unit, tail) = tail.split_at(span(tail, |byte| byte.is_ascii_alphabetic()));
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" if !number.is_empty() && tail.is_empty() => {
                return Err(format!("it has no unit; did you mean {text}s?"));
            }
            _ => return Err(FORM.to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| FORM.to_owned())?;
        let part = number.checked_mul(millis).map(Duration::from_millis);
        total = part.and_then(|part| total.checked_add(part)).ok_or("it is too long")?;
        rest = tail;
    }
    if total.is_zero() { Err(format!("it must not be empty or zero; {FORM}")) } else { Ok(total) }
}

fn span(text: &str, holds: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| holds(*byte)).count()
}

/// A point in time, as a person gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Ago(Duration),
    /// In Unix milliseconds.
    At(u64),
}

impl When {
    /// In Unix milliseconds. `now` is in Unix seconds.
    pub fn millis(self, now: u64) -> u64 {
        match self {
            Self::Ago(length) => {
                let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
                now.saturating_mul(1000).saturating_sub(length)
            }
            Self::At(millis) => millis,
        }
    }
}

/// How long ago, as [`duration`]; a time of RFC 3339; or a date, which is its midnight UTC.
pub fn when(text: &str) -> Result<When, String> {
    const FORM: &str = "expected such as 30m, 7d, 2026-02-01 or 2026-02-01T12:00:00Z";
    if !text.contains('-') {
        return duration(text).map(When::Ago);
    }
    let date = Date::parse(text, format_description!("[year]-[month]-[day]"));
    let time = match date {
        Ok(date) => date.midnight().assume_utc(),
        Err(_) => OffsetDateTime::parse(text, &Rfc3339).map_err(|_| FORM.to_owned())?,
    };
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(millis).map(When::At).map_err(|_| "it is before 1970".to_owned())
}

/// How long a token works: 1 s to [`MAX_TOKEN_TTL`].
pub fn token_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if ttl < Duration::from_secs(1) {
        Err("a token must work for at least 1s".to_owned())
    } else if ttl > MAX_TOKEN_TTL {
        Err("a token may work for 24h at most; make it when it is needed".to_owned())
    } else {
        Ok(ttl)
    }
}

/// An MTU of TUN devices: 1280 (RFC 8200 §5) to 1500.
pub fn tun_mtu(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(mtu @ 1280..=1500) => Ok(mtu),
        Ok(_) | Err(_) => Err("it must be a number from 1280 to 1500".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn for_a_network_with_host_bits_the_right_one_is_suggested() {
        assert_eq!(
            cidr("10.2.3.4/16").unwrap_err(),
            "it has host bits set; did you mean 10.2.0.0/16?"
        );
        assert_eq!(
            cidr("fd00::1/64").unwrap_err(),
            "it has host bits set; did you mean fd00::/64?"
        );
        assert_eq!(cidr("10.2.0.0/16").unwrap().to_string(), "10.2.0.0/16");
    }

    #[test]
    fn a_malformed_network_is_explained() {
        for (text, expected) in [
            ("10.2.0.1", "write 10.2.0.1/32"),
            ("fd00::1", "write fd00::1/128"),
            ("prod", "expected ADDRESS/LENGTH"),
            ("10.2.0/16", "\"10.2.0\" is not an IP address"),
            ("10.2.0.0/33", "from 0 to 32"),
            ("10.2.0.0/", "from 0 to 32"),
            ("10.2.0.0/+8", "from 0 to 32"),
            ("fd00::/129", "from 0 to 128"),
        ] {
            let error = cidr(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn durations_add_up() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "0s",
            "s",
            "1y",
            "1h x",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("10").unwrap_err(), "it has no unit; did you mean 10s?");
    }

    #[test]
    fn a_point_in_time_is_a_duration_ago_a_date_or_a_time() {
        assert_eq!(when("30m").unwrap().millis(10_000), 8_200_000);
        assert_eq!(when("9d").unwrap().millis(1), 0);
        for (text, millis) in [
            ("2026-01-01", 1_767_225_600_000),
            ("2026-01-01T00:00:00.25Z", 1_767_225_600_250),
            ("2026-01-01T08:00:00+08:00", 1_767_225_600_000),
        ] {
            assert_eq!(when(text), Ok(When::At(millis)), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "2026-01-01 12:00", "1969-01-01", "-1h"] {
            assert!(when(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_work_for_a_day_at_most() {
        assert!(token_ttl("24h").is_ok());
        assert!(token_ttl("25h").unwrap_err().contains("24h at most"));
        assert!(token_ttl("10ms").is_err());
    }

    #[test]
    fn a_serial_may_be_written_as_openssl_prints_it() {
        let plain = serial("0a1b2c3d4e5f60718293a4b5c6d7e8f9").unwrap();
        assert_eq!(serial("0A:1B:2C:3D:4E:5F:60:71:82:93:A4:B5:C6:D7:E8:F9").unwrap(), plain);
        assert!(serial("0a").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
            let _ = (cidr(&text), duration(&text), token_ttl(&text), tun_mtu(&text));
            let _ = when(&text);
            let _ = (serial(&text).is_ok(), optional_label(&text).is_ok());
        }
    }
}

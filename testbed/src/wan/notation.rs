//! How people write times, shares and rates.

use std::fmt;
use std::time::Duration;

/// A time, such as `65ms`.
#[derive(Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

/// A rate in bits per second, such as `200mbit`.
#[derive(Clone, Copy)]
pub(super) struct Rate(pub(super) u64);

const TIMES: [(&str, f64); 3] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
const RATES: [(&str, f64); 4] = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];

pub(super) fn span(text: &str) -> Result<Duration, String> {
    let seconds = number(text, &TIMES, "ms")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "it is too long: at most 10s".to_owned())
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    let percent = number(text, &[("%", 1.0)], "%")?;
    if percent > 100.0 { Err("more than 100%".to_owned()) } else { Ok(percent) }
}

pub(super) fn rate(text: &str) -> Result<u64, String> {
    let bits = number(&text.to_ascii_lowercase(), &RATES, "mbit")?;
    if !(1e3..=1e12).contains(&bits) {
        return Err("a rate is 1kbit to 1000gbit".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(bits.round() as u64)
}

/// A number that isn't negative, and its unit.
fn number(text: &str, units: &[(&str, f64)], usual: &str) -> Result<f64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let Ok(number) = digits.parse::<f64>() else {
        return Err(format!("not a number with a unit, such as 5{usual}"));
    };
    if unit.is_empty() && number == 0.0 {
        return Ok(0.0);
    }
    if unit.is_empty() {
        return Err(format!("it has no unit; did you mean {text}{usual}?"));
    }
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Ok(number * factor),
        None => {
            let known: Vec<_> = units.iter().map(|(name, _)| *name).collect();
            Err(format!("no unit {unit:?}: {}", known.join(", ")))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{}ms", self.0.as_secs_f64() * 1e3)
        } else {
            write!(f, "{}s", self.0.as_secs_f64())
        }
    }
}

impl fmt::Display for Rate {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0 as f64;
        match self.0 {
            0..1_000_000 => write!(f, "{}kbit", bits / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{}mbit", bits / 1e6),
            _ => write!(f, "{}gbit", bits / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_shares_and_rates_are_read_as_people_write_them() {
        assert_eq!(span("65ms"), Ok(Duration::from_millis(65)));
        assert_eq!(span("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(span("0"), Ok(Duration::ZERO));
        assert_eq!(percent("0.1%"), Ok(0.1));
        assert_eq!(rate("200mbit"), Ok(200_000_000));
        assert_eq!(rate("1.5Gbit"), Ok(1_500_000_000));
        for text in ["65ms", "1.5s", "0.25ms"] {
            assert_eq!(Span(span(text).unwrap()).to_string(), text);
        }
        for text in ["20kbit", "200mbit", "1.5gbit"] {
            assert_eq!(Rate(rate(text).unwrap()).to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_remedy() {
        assert_eq!(span("65").unwrap_err(), "it has no unit; did you mean 65ms?");
        assert_eq!(percent("1").unwrap_err(), "it has no unit; did you mean 1%?");
        assert_eq!(rate("200").unwrap_err(), "it has no unit; did you mean 200mbit?");
        assert_eq!(span("1h").unwrap_err(), "no unit \"h\": us, ms, s");
        assert_eq!(span("-1ms").unwrap_err(), "not a number with a unit, such as 5ms");
        assert_eq!(percent("101%").unwrap_err(), "more than 100%");
        assert_eq!(rate("1bit").unwrap_err(), "a rate is 1kbit to 1000gbit");
    }
}

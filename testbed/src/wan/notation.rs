//! Times, percentages and rates as text.

use std::fmt;
use std::time::Duration;

/// Displays a time, such as `65ms`.
#[derive(Clone, Copy)]
pub(super) struct TimeText(pub(super) Duration);

/// Displays a rate in bit/s, such as `200mbit`.
#[derive(Clone, Copy)]
pub(super) struct RateText(pub(super) u64);

const TIMES: [(&str, f64); 3] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
const RATES: [(&str, f64); 4] = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];

pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let seconds = parse_number(text, &TIMES, "ms")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "too long: at most 10s".to_owned())
}

pub(super) fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = parse_number(text, &[("%", 1.0)], "%")?;
    if percent > 100.0 { Err("more than 100%".to_owned()) } else { Ok(percent) }
}

pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    let bits = parse_number(&text.to_ascii_lowercase(), &RATES, "mbit")?;
    if !(1e3..=1e12).contains(&bits) {
        return Err("a rate is 1kbit to 1000gbit".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(bits.round() as u64)
}

/// Parses a number of zero or more with a unit, and returns it multiplied by the unit's factor.
/// `usual` is the unit suggested in errors.
fn parse_number(text: &str, units: &[(&str, f64)], usual: &str) -> Result<f64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let Ok(number) = digits.parse::<f64>() else {
        return Err(format!("not a number with a unit, such as 5{usual}"));
    };
    if unit.is_empty() && number == 0.0 {
        return Ok(0.0);
    }
    if unit.is_empty() {
        return Err(format!("the unit is missing: did you mean {text}{usual}?"));
    }
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Ok(number * factor),
        None => {
            let known: Vec<_> = units.iter().map(|(name, _)| *name).collect();
            Err(format!("unknown unit {unit:?}: use {}", known.join(", ")))
        }
    }
}

impl fmt::Display for TimeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{}ms", self.0.as_secs_f64() * 1e3)
        } else {
            write!(f, "{}s", self.0.as_secs_f64())
        }
    }
}

impl fmt::Display for RateText {
    #[expect(clippy::cast_precision_loss, reason = "rounded for display")]
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
    fn times_percentages_and_rates_are_parsed_with_their_units() {
        assert_eq!(parse_time("65ms"), Ok(Duration::from_millis(65)));
        assert_eq!(parse_time("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse_time("0"), Ok(Duration::ZERO));
        assert_eq!(parse_percent("0.1%"), Ok(0.1));
        assert_eq!(parse_rate("200mbit"), Ok(200_000_000));
        assert_eq!(parse_rate("1.5Gbit"), Ok(1_500_000_000));
        for text in ["65ms", "1.5s", "0.25ms"] {
            assert_eq!(TimeText(parse_time(text).unwrap()).to_string(), text);
        }
        for text in ["20kbit", "200mbit", "1.5gbit"] {
            assert_eq!(RateText(parse_rate(text).unwrap()).to_string(), text);
        }
    }

    #[test]
    fn errors_name_the_problem_and_suggest_a_fix() {
        assert_eq!(parse_time("65").unwrap_err(), "the unit is missing: did you mean 65ms?");
        assert_eq!(parse_percent("1").unwrap_err(), "the unit is missing: did you mean 1%?");
        assert_eq!(parse_rate("200").unwrap_err(), "the unit is missing: did you mean 200mbit?");
        assert_eq!(parse_time("1h").unwrap_err(), "unknown unit \"h\": use us, ms, s");
        assert_eq!(parse_time("-1ms").unwrap_err(), "not a number with a unit, such as 5ms");
        assert_eq!(parse_percent("101%").unwrap_err(), "more than 100%");
        assert_eq!(parse_rate("1bit").unwrap_err(), "a rate is 1kbit to 1000gbit");
    }
}

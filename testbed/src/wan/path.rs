use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::notation::{RateText, TimeText, parse_percent, parse_rate, parse_time};

// Not a doc comment: clap would use it as the help text of `testbed wan set`.
//
// The conditions of one direction between two links; none by default. They apply in this order:
// size, loss, the bottleneck's queue, then delay, reordering and duplication. Super-packets are
// judged by their segments. Sizes are those of IP packets, headers included.
//
// fields: each is an option of `testbed wan set`.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WanPath {
    /// Delay, one way: 65ms, 1.5s, 250us
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    #[serde(rename = "delay_ms", with = "millis")]
    pub delay: Duration,
    /// Additional delay that varies smoothly between 0 and TIME, and keeps the order
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    #[serde(rename = "jitter_ms", with = "millis")]
    pub jitter: Duration,
    /// Share of packets that are lost
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = parse_percent)]
    #[serde(rename = "loss_percent")]
    pub loss: f64,
    /// Lose this many packets in a row on average (Gilbert's model); each independently otherwise
    #[arg(long, value_name = "PACKETS", requires = "loss")]
    pub burst: Option<f64>,
    /// Share of packets that are late, so that others overtake them
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = parse_percent)]
    #[serde(rename = "reorder_percent")]
    pub reorder: f64,
    /// Additional delay of late packets
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_time, requires = "reorder")]
    #[serde(rename = "reorder_by_ms", with = "millis")]
    pub reorder_by: Duration,
    /// Share of packets that arrive twice
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = parse_percent)]
    #[serde(rename = "duplicate_percent")]
    pub duplicate: f64,
    /// Rate of a bottleneck: 200mbit, 1gbit, 500kbit
    #[arg(long, value_parser = parse_rate)]
    #[serde(rename = "rate_bit_s")]
    pub rate: Option<u64>,
    /// Length of the bottleneck's queue; packets that find it full are dropped
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_time, requires = "rate")]
    #[serde(rename = "queue_ms", with = "millis")]
    pub queue: Duration,
    /// Mark ECN-capable packets CE when they find the queue more than half full
    #[arg(long, requires = "rate")]
    pub ecn: bool,
    /// Drop packets larger than BYTES, fragmentable or not
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Answer packets that are too large with an ICMP error; they are dropped silently otherwise
    #[arg(long, requires = "mtu")]
    pub icmp: bool,
    /// Seed of the random conditions; each direction has its own random numbers
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for WanPath {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: None,
            reorder: 0.0,
            reorder_by: Duration::from_millis(1),
            duplicate: 0.0,
            rate: None,
            queue: Duration::from_millis(50),
            ecn: false,
            mtu: None,
            icmp: false,
            seed: 1,
        }
    }
}

impl WanPath {
    /// The longest delay, jitter, queue or reordering delay that is accepted.
    pub const MAX_TIME: Duration = Duration::from_secs(10);

    /// Returns an error if a value is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, percent) in
            [("loss", self.loss), ("reordering", self.reorder), ("duplication", self.duplicate)]
        {
            ensure!((0.0..=100.0).contains(&percent), "a {name} of {percent}% is not 0 to 100%");
        }
        for (name, time) in [
            ("delay", self.delay),
            ("jitter", self.jitter),
            ("queue", self.queue),
            ("reordering delay", self.reorder_by),
        ] {
            ensure!(time <= Self::MAX_TIME, "a {name} of {} is more than 10s", TimeText(time));
        }
        if let Some(burst) = self.burst {
            let most = 100.0 * burst / (burst + 1.0);
            ensure!((1.0..=1e6).contains(&burst), "a burst of {burst} packets is not 1 to 1000000");
            ensure!(
                self.loss <= most,
                "bursts of {burst} packets give a loss of {most:.1}% at most, not {}%: use longer bursts",
                self.loss
            );
        }
        if let Some(rate) = self.rate {
            ensure!(rate >= 1000, "a rate of {rate} bit/s is less than 1kbit");
        }
        if let Some(mtu) = self.mtu {
            ensure!(mtu >= 68, "an MTU of {mtu} is less than 68 bytes, the minimum of IPv4");
        }
        Ok(())
    }
}

/// Displays as the options of `testbed wan set`, without the dashes.
impl fmt::Display for WanPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delay {}", TimeText(self.delay))?;
        if !self.jitter.is_zero() {
            write!(f, " jitter {}", TimeText(self.jitter))?;
        }
        if self.loss > 0.0 {
            write!(f, " loss {}%", self.loss)?;
        }
        if let Some(burst) = self.burst {
            write!(f, " burst {burst}")?;
        }
        if self.reorder > 0.0 {
            write!(f, " reorder {}% by {}", self.reorder, TimeText(self.reorder_by))?;
        }
        if self.duplicate > 0.0 {
            write!(f, " duplicate {}%", self.duplicate)?;
        }
        if let Some(rate) = self.rate {
            write!(f, " rate {} queue {}", RateText(rate), TimeText(self.queue))?;
            f.write_str(if self.ecn { " ecn" } else { "" })?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}{}", if self.icmp { " icmp" } else { "" })?;
        }
        write!(f, " seed {}", self.seed)
    }
}

/// Serialises times as milliseconds with a fraction, exact to the nanosecond.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64() * 1e3)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let millis = f64::deserialize(from)?;
        Duration::try_from_secs_f64(millis / 1e3).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_a_round_trip_through_json() {
        let path = WanPath {
            delay: Duration::from_micros(65_001),
            loss: 0.1,
            burst: Some(5.0),
            rate: Some(200_000_000),
            mtu: Some(1300),
            ..WanPath::default()
        };
        let text = serde_json::to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<WanPath>(&text).unwrap(), path);
        assert_eq!(
            path.to_string(),
            "delay 65.001ms loss 0.1% burst 5 rate 200mbit queue 50ms mtu 1300 seed 1"
        );
    }

    #[test]
    fn values_out_of_range_are_refused_and_named() {
        let none = WanPath::default();
        let cases = [
            (WanPath { loss: 101.0, ..none.clone() }, "loss of 101%"),
            (WanPath { loss: f64::NAN, ..none.clone() }, "loss of NaN%"),
            (WanPath { duplicate: -1.0, ..none.clone() }, "duplication of -1%"),
            (WanPath { delay: Duration::from_secs(11), ..none.clone() }, "delay of 11s"),
            (WanPath { burst: Some(0.5), ..none.clone() }, "burst of 0.5"),
            (WanPath { loss: 60.0, burst: Some(1.0), ..none.clone() }, "50.0% at most, not 60%"),
            (WanPath { rate: Some(999), ..none.clone() }, "rate of 999"),
            (WanPath { mtu: Some(67), ..none.clone() }, "MTU of 67"),
        ];
        none.check().unwrap();
        for (path, part) in cases {
            let error = path.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

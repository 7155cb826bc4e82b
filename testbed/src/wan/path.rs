use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::notation::{Rate, Span};

/// What happens to the packets of one direction between two links. The default is nothing.
///
/// A packet is judged in this order: size, loss, the bottleneck's queue, then delay, reordering and
/// duplication. Super-packets are judged by their segments. Sizes are those of IP packets, headers
/// included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WanPath {
    /// One way: 65 ms in both directions are a round trip of 130 ms.
    #[serde(rename = "delay_ms", with = "millis")]
    pub delay: Duration,
    /// At most so much more delay. It wanders between zero and this, as queues elsewhere fill and
    /// drain, and keeps the packets' order.
    #[serde(rename = "jitter_ms", with = "millis")]
    pub jitter: Duration,
    /// Of a hundred packets so many are lost.
    #[serde(rename = "loss_percent")]
    pub loss: f64,
    /// The mean number of packets lost in a row, 1 or more (a Gilbert model: all is lost in its bad
    /// state, nothing in its good one). Without it packets are lost independently.
    pub burst: Option<f64>,
    /// Of a hundred packets so many are overtaken by those behind them.
    #[serde(rename = "reorder_percent")]
    pub reorder: f64,
    /// By how much such a packet is late.
    #[serde(rename = "reorder_by_ms", with = "millis")]
    pub reorder_by: Duration,
    /// Of a hundred packets so many arrive twice.
    #[serde(rename = "duplicate_percent")]
    pub duplicate: f64,
    /// A bottleneck's rate in bits per second.
    #[serde(rename = "rate_bit_s")]
    pub rate: Option<u64>,
    /// How long the bottleneck's queue may get; a packet that finds more is dropped.
    #[serde(rename = "queue_ms", with = "millis")]
    pub queue: Duration,
    /// Whether ECN-capable packets that find the queue more than half full are marked CE.
    pub ecn: bool,
    /// Larger packets are dropped, fragmentable or not; in bytes.
    pub mtu: Option<u16>,
    /// Whether packets that are too large are answered with "fragmentation needed" (RFC 1191) or
    /// "packet too big" (RFC 4443); they vanish silently otherwise.
    pub icmp: bool,
    /// Where the random sequences begin. Each direction of a pair has sequences of its own.
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
    /// The longest delay, jitter, queue or lateness that is accepted.
    pub const MAX_TIME: Duration = Duration::from_secs(10);

    /// Refuses what no path can do.
    pub(super) fn check(&self) -> Result<()> {
        for (name, percent) in
            [("loss", self.loss), ("reordering", self.reorder), ("duplication", self.duplicate)]
        {
            ensure!((0.0..=100.0).contains(&percent), "a {name} of {percent}% is not 0 to 100%");
        }
        for (name, time) in [
            ("delay", self.delay),
            ("jitter", self.jitter),
            ("queue", self.queue),
            ("lateness", self.reorder_by),
        ] {
            ensure!(time <= Self::MAX_TIME, "a {name} of {} is more than 10s", Span(time));
        }
        if let Some(burst) = self.burst {
            let most = 100.0 * burst / (burst + 1.0);
            ensure!((1.0..=1e6).contains(&burst), "a burst of {burst} packets is not 1 to 1000000");
            ensure!(
                self.loss <= most,
                "bursts of {burst} packets make up {most:.1}% at most, not {}%: ask for longer ones",
                self.loss
            );
        }
        if let Some(rate) = self.rate {
            ensure!(rate >= 1000, "a rate of {rate} bit/s is less than 1kbit");
        }
        if let Some(mtu) = self.mtu {
            ensure!(
                mtu >= 68,
                "an MTU of {mtu} is less than 68 bytes, which every path of IPv4 has"
            );
        }
        Ok(())
    }
}

/// As the options of `testbed wan set`, without the dashes.
impl fmt::Display for WanPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delay {}", Span(self.delay))?;
        if !self.jitter.is_zero() {
            write!(f, " jitter {}", Span(self.jitter))?;
        }
        if self.loss > 0.0 {
            write!(f, " loss {}%", self.loss)?;
        }
        if let Some(burst) = self.burst {
            write!(f, " burst {burst}")?;
        }
        if self.reorder > 0.0 {
            write!(f, " reorder {}% by {}", self.reorder, Span(self.reorder_by))?;
        }
        if self.duplicate > 0.0 {
            write!(f, " duplicate {}%", self.duplicate)?;
        }
        if let Some(rate) = self.rate {
            write!(f, " rate {} queue {}", Rate(rate), Span(self.queue))?;
            f.write_str(if self.ecn { " ecn" } else { "" })?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}{}", if self.icmp { " icmp" } else { "" })?;
        }
        write!(f, " seed {}", self.seed)
    }
}

/// Times as milliseconds with a fraction: what people read, and exact to the nanosecond.
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
    fn a_path_is_read_back_as_it_was_written() {
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
    fn what_no_path_can_do_is_refused_with_the_value() {
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

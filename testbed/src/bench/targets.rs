//! The targets, and whether they were met.

use super::statistics::{Ratio, median, range, ratio};
use super::store::Store;

#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) title: &'static str,
    pub(super) scenario: &'static str,
    pub(super) metric: &'static str,
    pub(super) against: Against,
    pub(super) bound: Bound,
}

/// What a target's bound applies to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Against {
    /// The ratio of medians to this contender's.
    Contender(&'static str),
    /// The median itself.
    Absolute,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) measured: Ratio,
    pub(super) verdict: Verdict,
    /// Whether both contenders were measured in turns.
    pub(super) interleaved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    /// The median misses the target, but at least one round meets it.
    WithinNoise,
    Missed,
}

impl Bound {
    fn judge(self, measured: &Ratio) -> Verdict {
        let (low, high) = measured.interval;
        let (met, met_by_a_round) = match self {
            Self::AtLeast(least) => (measured.value >= least, high >= least),
            Self::AtMost(most) => (measured.value <= most, low <= most),
        };
        match (met, met_by_a_round) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::WithinNoise,
            (false, false) => Verdict::Missed,
        }
    }
}

impl Target {
    /// `None` if a contender was not measured.
    pub(super) fn outcome(&self, store: &Store) -> Option<Outcome> {
        let ours = store.series(self.scenario, "cframe")?;
        let values = ours.values(self.metric);
        let (measured, interleaved) = match self.against {
            Against::Contender(name) => {
                let theirs = store.series(self.scenario, name)?;
                let measured = ratio(&values, &theirs.values(self.metric))?;
                (measured, theirs.session == ours.session)
            }
            Against::Absolute => {
                (Ratio { value: median(&values)?, interval: range(&values)? }, true)
            }
        };
        Some(Outcome { measured, verdict: self.bound.judge(&measured), interleaved })
    }
}

pub(super) fn all() -> Vec<Target> {
    let mut all = Vec::from(CLEAN);
    for (title, scenario) in WAN {
        let against = Against::Contender("none");
        all.push(Target { title, scenario, metric: "mbit", against, bound: AtLeast(0.97) });
    }
    all
}

const fn target(
    title: &'static str,
    scenario: &'static str,
    metric: &'static str,
    against: &'static str,
    bound: Bound,
) -> Target {
    Target { title, scenario, metric, against: Against::Contender(against), bound }
}

use Bound::{AtLeast, AtMost};

const CLEAN: [Target; 18] = [
    target("TCP, 1 flow", "tcp1", "mbit", "wireguard-go", AtLeast(2.2)),
    target("TCP, 1 flow", "tcp1", "mbit", "quincy", AtLeast(3.3)),
    target("TCP, 1 flow", "tcp1", "mbit", "limit", AtLeast(0.85)),
    target("TCP, 4 flows", "tcp4", "mbit", "wireguard-go", AtLeast(2.2)),
    target("TCP, 4 flows", "tcp4", "mbit", "quincy", AtLeast(3.3)),
    target("TCP, 4 flows", "tcp4", "mbit", "limit", AtLeast(0.85)),
    target("CPU per GB, 1 flow", "tcp1", "cpu_s_per_gb", "wireguard-go", AtMost(0.4)),
    target(
        "CPU per GB at 180 of 200 Mbit/s",
        "paced180",
        "cpu_s_per_gb",
        "wireguard-go",
        AtMost(0.4),
    ),
    target("Segmentation offload off", "noseg1", "mbit", "quincy", AtLeast(1.25)),
    target("Segmentation offload off", "noseg1", "mbit", "wireguard-go", AtLeast(2.0)),
    target("Both ways at once", "both", "mbit", "wireguard-go", AtLeast(1.8)),
    target("64-byte packets, 1 flow", "pps1", "pps", "quincy", AtLeast(1.9)),
    target("64-byte packets, 64 flows", "pps64", "pps", "quincy", AtLeast(1.5)),
    target("Ping idle, p50", "ping", "ping_p50_ms", "wireguard-go", AtMost(0.6)),
    target("Ping under a bulk flow, p99", "load", "ping_p99_ms", "wireguard-go", AtMost(0.12)),
    target("200 Mbit/s bottleneck, goodput of bbr", "narrow-bbr", "mbit", "none", AtLeast(0.95)),
    target(
        "200 Mbit/s bottleneck, ping under bbr, p50",
        "narrow-bbr",
        "ping_p50_ms",
        "none",
        AtMost(1.15),
    ),
    Target {
        title: "RSS under full load, MiB",
        scenario: "tcp4",
        metric: "rss_mib",
        against: Against::Absolute,
        bound: AtMost(64.0),
    },
];

const WAN: [(&str, &str); 8] = [
    ("WAN 20 ms, 1 % loss, cubic", "wan-20-1-cubic"),
    ("WAN 20 ms, 1 % loss, bbr", "wan-20-1-bbr"),
    ("WAN 20 ms, 3 % loss, cubic", "wan-20-3-cubic"),
    ("WAN 20 ms, 3 % loss, bbr", "wan-20-3-bbr"),
    ("WAN 130 ms, 1 % loss, cubic", "wan-130-1-cubic"),
    ("WAN 130 ms, 1 % loss, bbr", "wan-130-1-bbr"),
    ("WAN 130 ms, 3 % loss, cubic", "wan-130-3-cubic"),
    ("WAN 130 ms, 3 % loss, bbr", "wan-130-3-bbr"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::scenario;
    use crate::bench::store::{Key, Sample};

    #[test]
    fn every_target_is_of_an_existing_scenario() {
        let scenarios = scenario::all();
        for target in all() {
            assert!(scenarios.iter().any(|s| s.name == target.scenario), "{}", target.scenario);
        }
    }

    #[test]
    fn a_target_missed_by_the_median_but_not_by_every_round_is_within_noise() {
        let measured = |value, low, high| Ratio { value, interval: (low, high) };
        let bound = AtLeast(2.0);
        assert_eq!(bound.judge(&measured(2.0, 1.0, 3.0)), Verdict::Met);
        assert_eq!(bound.judge(&measured(1.9, 1.0, 3.0)), Verdict::WithinNoise);
        assert_eq!(bound.judge(&measured(1.9, 1.0, 1.95)), Verdict::Missed);
        assert_eq!(AtMost(0.4).judge(&measured(0.5, 0.45, 0.6)), Verdict::Missed);
        assert_eq!(AtMost(0.4).judge(&measured(0.5, 0.35, 0.6)), Verdict::WithinNoise);
    }

    #[test]
    fn an_outcome_records_whether_both_were_measured_in_turns() {
        let mut store = Store::default();
        let target = target("", "tcp1", "mbit", "none", AtLeast(0.5));
        for (contender, session, mbit) in [("cframe", 1, 3.0), ("none", 2, 4.0)] {
            assert_eq!(target.outcome(&store), None);
            let key = Key { scenario: "tcp1", contender, session, commit: "" };
            store.add(&key, Ok(Sample::from([("mbit".to_owned(), mbit)])));
        }
        let outcome = target.outcome(&store).unwrap();
        assert_eq!((outcome.verdict, outcome.interleaved), (Verdict::Met, false));
        assert_eq!(outcome.measured.value, 0.75);
    }
}

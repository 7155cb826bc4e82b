//! The table of all scenarios.

use std::fmt;

/// The path between the two gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// A veth pair.
    Veth,
    /// A veth pair without segmentation offload.
    NoSegmentation,
    /// 200 Mbit/s each way with a queue of 50 ms, and a round-trip time of 20 ms.
    Narrow,
    /// An emulated WAN. The loss is that of each direction.
    Wan { rtt_ms: u32, loss_percent: u32 },
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Veth => write!(f, "clean veth"),
            Self::NoSegmentation => write!(f, "veth without segmentation offload"),
            Self::Narrow => write!(f, "200 Mbit/s, 50 ms of buffer, 20 ms"),
            Self::Wan { rtt_ms, loss_percent } => {
                write!(f, "WAN, {rtt_ms} ms, {loss_percent} % loss")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// A run of iperf3.
    Tcp(Tcp),
    /// The highest rate of 64-byte UDP packets with less than 1 % loss. Each flow has its own
    /// source port.
    Packets { flows: u16 },
    /// Echo requests every 2 ms without other traffic.
    Ping,
    /// The time from the start of both ends to the first reply.
    Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) flows: u32,
    pub(super) both_ways: bool,
    /// Congestion control of the inner flow; the system's default if `None`.
    pub(super) congestion: Option<&'static str>,
    /// Rate limit of each flow in Mbit/s.
    pub(super) mbit: Option<u32>,
    /// Whether to send echo requests every 2 ms at the same time.
    pub(super) ping: bool,
    /// Minimum length of a round, because random loss takes longer to average out.
    pub(super) min_seconds: u32,
}

const TCP: Tcp =
    Tcp { flows: 1, both_ways: false, congestion: None, mbit: None, ping: false, min_seconds: 0 };

#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    /// The name on the command line and in the store.
    pub(super) name: &'static str,
    /// The title in the report.
    pub(super) title: &'static str,
    pub(super) condition: Condition,
    pub(super) workload: Workload,
}

impl Scenario {
    /// Approximate time of a round of one contender, given the `seconds` of the command line.
    pub(super) fn seconds_per_round(&self, seconds: u32) -> u32 {
        match self.workload {
            Workload::Tcp(tcp) => seconds.max(tcp.min_seconds) + 2,
            Workload::Packets { .. } => 14,
            Workload::Ping => seconds,
            Workload::Start => 4,
        }
    }

    /// Whether this contender is measured. Contenders with per-packet I/O are measured on the WAN
    /// only if the command line has `named` them: rounds are long there, and the path is the limit.
    pub(super) fn is_for(&self, contender: &str, named: bool) -> bool {
        let wan = matches!(self.condition, Condition::Wan { .. });
        named || !wan || !["nebula", "openvpn", "limit"].contains(&contender)
    }
}

/// All scenarios in the order in which they run. Those of one condition follow each other.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = Vec::from(ON_VETH);
    all.extend(WAN);
    all
}

const fn tcp(name: &'static str, title: &'static str, condition: Condition, tcp: Tcp) -> Scenario {
    Scenario { name, title, condition, workload: Workload::Tcp(tcp) }
}

const fn veth(name: &'static str, title: &'static str, workload: Workload) -> Scenario {
    Scenario { name, title, condition: Condition::Veth, workload }
}

const fn wan(name: &'static str, rtt_ms: u32, loss_percent: u32, cc: &'static str) -> Scenario {
    let condition = Condition::Wan { rtt_ms, loss_percent };
    // The report adds the condition and the congestion control.
    tcp(name, "TCP, 1 flow", condition, Tcp { congestion: Some(cc), min_seconds: 8, ..TCP })
}

const ON_VETH: [Scenario; 13] = [
    veth("start", "Start to first ping", Workload::Start),
    veth("ping", "Ping, idle", Workload::Ping),
    tcp("tcp1", "TCP, 1 flow", Condition::Veth, TCP),
    tcp("tcp4", "TCP, 4 flows", Condition::Veth, Tcp { flows: 4, ..TCP }),
    tcp("both", "TCP, both ways at once", Condition::Veth, Tcp { both_ways: true, ..TCP }),
    tcp("load", "Ping under a bulk flow", Condition::Veth, Tcp { ping: true, ..TCP }),
    veth("pps1", "64-byte packets, 1 flow", Workload::Packets { flows: 1 }),
    veth("pps64", "64-byte packets, 64 flows", Workload::Packets { flows: 64 }),
    tcp("noseg1", "TCP, 1 flow", Condition::NoSegmentation, TCP),
    tcp("noseg4", "TCP, 4 flows", Condition::NoSegmentation, Tcp { flows: 4, ..TCP }),
    tcp("paced180", "TCP at 180 Mbit/s", Condition::Narrow, Tcp { mbit: Some(180), ..TCP }),
    tcp("narrow-cubic", "TCP, 1 flow, cubic", Condition::Narrow, NARROW_CUBIC),
    tcp(
        "narrow-bbr",
        "TCP, 1 flow, bbr",
        Condition::Narrow,
        Tcp { congestion: Some("bbr"), ..NARROW_CUBIC },
    ),
];

const NARROW_CUBIC: Tcp = Tcp { congestion: Some("cubic"), ping: true, min_seconds: 8, ..TCP };

const WAN: [Scenario; 12] = [
    wan("wan-20-0-cubic", 20, 0, "cubic"),
    wan("wan-20-0-bbr", 20, 0, "bbr"),
    wan("wan-20-1-cubic", 20, 1, "cubic"),
    wan("wan-20-1-bbr", 20, 1, "bbr"),
    wan("wan-20-3-cubic", 20, 3, "cubic"),
    wan("wan-20-3-bbr", 20, 3, "bbr"),
    wan("wan-130-0-cubic", 130, 0, "cubic"),
    wan("wan-130-0-bbr", 130, 0, "bbr"),
    wan("wan-130-1-cubic", 130, 1, "cubic"),
    wan("wan-130-1-bbr", 130, 1, "bbr"),
    wan("wan-130-3-cubic", 130, 3, "cubic"),
    wan("wan-130-3-bbr", 130, 3, "bbr"),
];

/// The scenarios with a name, or a start of names (`wan`, `noseg`), in `only`; all if it is empty.
/// The error has the words that match no scenario.
pub(super) fn selected(only: &[String]) -> Result<Vec<Scenario>, Vec<String>> {
    let all = all();
    let unknown: Vec<_> = only
        .iter()
        .filter(|word| !all.iter().any(|scenario| scenario.name.starts_with(word.as_str())))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let wanted = |scenario: &Scenario| {
        let exact = |word: &String| all.iter().any(|other| other.name == word);
        only.is_empty()
            || only.iter().any(|word| match exact(word) {
                true => scenario.name == word,
                false => scenario.name.starts_with(word.as_str()),
            })
    };
    Ok(all.iter().copied().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str]) -> Vec<&'static str> {
        let only: Vec<_> = only.iter().map(|word| (*word).to_owned()).collect();
        selected(&only).unwrap().iter().map(|scenario| scenario.name).collect()
    }

    #[test]
    fn a_name_selects_one_scenario_and_a_prefix_all_that_start_with_it() {
        assert_eq!(names(&["tcp1"]), ["tcp1"]);
        assert_eq!(names(&["noseg", "ping"]), ["ping", "noseg1", "noseg4"]);
        assert_eq!(names(&["wan-130"]).len(), 6);
        assert_eq!(names(&[]).len(), all().len());
    }

    #[test]
    fn words_that_match_nothing_are_reported() {
        let unknown = selected(&["tcp1".to_owned(), "udp".to_owned()]).unwrap_err();
        assert_eq!(unknown, ["udp"]);
    }

    #[test]
    fn contenders_with_per_packet_io_are_on_the_wan_only_if_named() {
        let wan = WAN[0];
        assert!(wan.is_for("cframe", false) && wan.is_for("none", false));
        assert!(!wan.is_for("nebula", false) && wan.is_for("nebula", true));
        assert!(ON_VETH[0].is_for("nebula", false));
    }

    #[test]
    fn a_wan_scenario_matches_its_name() {
        for scenario in WAN {
            let Condition::Wan { rtt_ms, loss_percent } = scenario.condition else {
                panic!("{} is not on the WAN", scenario.name);
            };
            let Workload::Tcp(Tcp { congestion: Some(congestion), .. }) = scenario.workload else {
                panic!("{} has no congestion control", scenario.name);
            };
            assert_eq!(scenario.name, format!("wan-{rtt_ms}-{loss_percent}-{congestion}"));
        }
    }
}

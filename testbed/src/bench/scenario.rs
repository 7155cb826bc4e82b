//! What is measured: a table.

use std::fmt;

/// What lies between the two gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// One veth pair.
    Veth,
    /// The same, where every packet crosses by itself.
    NoSegmentation,
    /// 200 Mbit/s each way with 50 ms of buffer, 20 ms there and back.
    Narrow,
    /// The emulated WAN.
    Wan {
        /// There and back.
        rtt_ms: u32,
        /// Each way.
        loss_percent: u32,
    },
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

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// iperf3.
    Tcp(Tcp),
    /// The most 64-byte UDP packets a second of which less than 1 % are lost, of so many flows.
    Packets {
        /// Source ports.
        flows: u16,
    },
    /// Echo requests every 2 ms, and nothing else.
    Ping,
    /// From the start of both ends to the first answer.
    Start,
}

/// A run of iperf3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) flows: u32,
    /// In both directions at once.
    pub(super) both: bool,
    /// Congestion control of the inner flow; the system's default if none.
    pub(super) congestion: Option<&'static str>,
    /// Paced to so many Mbit/s.
    pub(super) mbit: Option<u32>,
    /// Echo requests every 2 ms beside it.
    pub(super) ping: bool,
    /// At least so long, in seconds: random loss needs more time to average out.
    pub(super) at_least: u32,
}

const TCP: Tcp =
    Tcp { flows: 1, both: false, congestion: None, mbit: None, ping: false, at_least: 0 };

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    /// For the command line and the store.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    pub(super) condition: Condition,
    pub(super) workload: Workload,
}

impl Scenario {
    /// How long one round of one contender takes, in seconds, more or less.
    pub(super) fn cost(&self, seconds: u32) -> u32 {
        match self.workload {
            Workload::Tcp(tcp) => seconds.max(tcp.at_least) + 2,
            Workload::Packets { .. } => 14,
            Workload::Ping => seconds,
            Workload::Start => 4,
        }
    }

    /// Whether this contender is measured. On the WAN, where rounds are long, those with per-packet I/O are only if they
    /// were `named`: the machine is not the limit there, and they have nothing of their own to show.
    pub(super) fn is_for(&self, contender: &str, named: bool) -> bool {
        let wan = matches!(self.condition, Condition::Wan { .. });
        named || !wan || !["nebula", "openvpn", "limit"].contains(&contender)
    }
}

/// All of them, in the order in which they run: those of one condition stand together.
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
    // The title is the condition's and the congestion control's, see the report.
    tcp(name, "TCP, 1 flow", condition, Tcp { congestion: Some(cc), at_least: 8, ..TCP })
}

const ON_VETH: [Scenario; 13] = [
    veth("start", "Start to first ping", Workload::Start),
    veth("ping", "Ping, idle", Workload::Ping),
    tcp("tcp1", "TCP, 1 flow", Condition::Veth, TCP),
    tcp("tcp4", "TCP, 4 flows", Condition::Veth, Tcp { flows: 4, ..TCP }),
    tcp("both", "TCP, both ways at once", Condition::Veth, Tcp { both: true, ..TCP }),
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

const NARROW_CUBIC: Tcp = Tcp { congestion: Some("cubic"), ping: true, at_least: 8, ..TCP };

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

/// Those that `only` names, each by its name or by the start of several (`wan`, `noseg`); all if it is empty. The
/// error names the words that fit none.
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
    fn a_name_selects_itself_and_a_start_all_that_begin_with_it() {
        assert_eq!(names(&["tcp1"]), ["tcp1"]);
        assert_eq!(names(&["noseg", "ping"]), ["ping", "noseg1", "noseg4"]);
        assert_eq!(names(&["wan-130"]).len(), 6);
        assert_eq!(names(&[]).len(), all().len());
    }

    #[test]
    fn a_word_that_fits_nothing_is_named() {
        let unknown = selected(&["tcp1".to_owned(), "udp".to_owned()]).unwrap_err();
        assert_eq!(unknown, ["udp"]);
    }

    #[test]
    fn nobody_waits_on_the_wan_for_who_was_not_named() {
        let wan = WAN[0];
        assert!(wan.is_for("cframe", false) && wan.is_for("none", false));
        assert!(!wan.is_for("nebula", false) && wan.is_for("nebula", true));
        assert!(ON_VETH[0].is_for("nebula", false));
    }

    #[test]
    fn a_wan_scenario_is_what_its_name_says() {
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

//! What an analysis found, in words. Pure.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::{ANALYSIS_LIFE, Key, MAX_LISTED, MIN_MISSES, Seen};
use crate::host::probe::{
    cause::{Cause, Path},
    facts::{Finding, Outcome},
    packet::Kind,
    plan::Probe,
    survey::Names,
};

/// How long it holds that a rule of iptables-legacy was found.
const LEGACY_LIFE: Duration = Duration::from_secs(2);

/// What was found about one direction.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Dropped {
        cause: Cause,
        /// Kinds of packets that pass.
        partly: Vec<String>,
        /// By a rule of iptables-legacy, whose changes are not seen.
        legacy: bool,
    },
    SourceNat(Cause),
    /// Probes pass all rules now.
    Passes,
    /// Our own guard drops them, because they are on their way out in the clear.
    Guarded,
    Unknown(Cause),
}

/// What came of the probes of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed<'a> {
    pub(super) key: Key,
    /// Those that did not arrive as they should.
    pub(super) bad: &'a [(Probe, Seen)],
    /// None arrived as it should.
    pub(super) all: bool,
    /// Rounds in a row.
    pub(super) misses: u32,
    /// TCP to any port passes.
    pub(super) tcp_passes: bool,
}

impl Verdict {
    /// How long it holds while the rules stay the same, as far as that can be seen.
    pub(super) fn life(&self) -> Duration {
        match self {
            Self::Passes => Duration::ZERO,
            Self::Dropped { legacy: true, .. } => LEGACY_LIFE,
            Self::Dropped { .. } | Self::SourceNat(_) | Self::Guarded | Self::Unknown(_) => {
                ANALYSIS_LIFE
            }
        }
    }

    /// `None` while nothing is known to be wrong.
    pub(super) fn outcome(
        &self,
        observed: &Observed<'_>,
        names: &Names,
        foreign: &[IpNet],
    ) -> Option<Outcome> {
        let Observed { key, bad, misses, .. } = *observed;
        let what = what(observed, names, foreign);
        let finding = |text, cause: &Cause| Finding { text, fix: cause.fix.clone() };
        match self {
            Self::Dropped { cause, partly, .. } => {
                let text = format!("{what}{}: {}", only(partly), cause.text);
                let is_service = |name: &String| name.starts_with("TCP") || name.starts_with("UDP");
                let some_services = match key.kind {
                    // A firewall that lets all of TCP pass has a rule against UDP.
                    Kind::Udp => !observed.tcp_passes && partly.iter().any(is_service),
                    Kind::TcpSyn => partly.iter().any(is_service),
                    Kind::Echo => true,
                    Kind::Large => false,
                };
                let finding = finding(text, cause);
                Some(match some_services {
                    true => Outcome::Partly(finding),
                    false => Outcome::Blocked(finding),
                })
            }
            Self::SourceNat(cause) => {
                let (probe, Seen::Arrived(source)) = bad.first()? else { return None };
                let text = format!(
                    "packets from {} on {} come to the tunnel as if from {source}, which is not an \
                     address of this site: {}",
                    probe.from,
                    names.name(key.device),
                    cause.text
                );
                Some(Outcome::Masqueraded(finding(text, cause)))
            }
            Self::Unknown(cause) if misses >= MIN_MISSES => {
                let finding = finding(format!("{what}: {}", cause.text), cause);
                Some(match key.kind {
                    Kind::Echo => Outcome::Partly(finding),
                    Kind::Udp | Kind::TcpSyn | Kind::Large => Outcome::Blocked(finding),
                })
            }
            Self::Guarded => Some(Outcome::Guarded),
            Self::Unknown(_) | Self::Passes => None,
        }
    }
}

/// What was seen, as the start of a sentence.
fn what(observed: &Observed<'_>, names: &Names, foreign: &[IpNet]) -> String {
    let Observed { key: Key { path, device, kind, .. }, bad, all, .. } = *observed;
    let device = names.name(device);
    let sides = bad.iter().map(|(probe, _)| match path {
        Path::Out => (probe.from, probe.to),
        Path::In | Path::PortIn | Path::PortOut => (probe.to, probe.from),
    });
    let (hosts, others): (Vec<IpAddr>, Vec<IpAddr>) = sides.unzip();
    let hosts = listed(hosts);
    // The addresses in other sites are made up.
    let prefix = |ip: IpAddr| foreign.iter().find(|net| net.contains(&ip)).copied();
    let others = listed(others.into_iter().filter_map(prefix).collect());
    let packets = match kind {
        Kind::Udp => "packets",
        Kind::Large => "large packets",
        Kind::TcpSyn => "TCP connections",
        Kind::Echo => "pings",
    };
    let share = if all { "" } else { ", while others do" };
    match path {
        Path::Out => {
            format!("{packets} from {hosts} on {device} to {others} do not reach the mesh{share}")
        }
        Path::In | Path::PortIn | Path::PortOut => {
            format!(
                "{packets} from {others} in the mesh to {hosts} do not get out by {device}{share}"
            )
        }
    }
}

/// What passes in spite of it.
fn only(partly: &[String]) -> String {
    match partly {
        [] => String::new(),
        [one] => format!(", only {one} does"),
        more => format!(", only {} do", more.join(", ")),
    }
}

/// A few of them, each once, in order.
fn listed<T: Ord + ToString>(mut items: Vec<T>) -> String {
    items.sort_unstable();
    items.dedup();
    let more = if items.len() > MAX_LISTED { ", …" } else { "" };
    let some: Vec<String> = items.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    format!("{}{more}", some.join(", "))
}

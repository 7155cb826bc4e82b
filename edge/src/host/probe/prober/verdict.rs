//! What an analysis found, in words. Pure.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{ANALYSIS_LIFE, Key, MAX_LISTED, MIN_MISSES, Seen};
use crate::host::probe::{
    cause::{Cause, Path},
    facts::{Finding, Outcome},
    packet::Kind,
    plan::Probe,
    survey::Names,
};

/// How long it holds that a rule of iptables-legacy was found, whose changes are not seen.
pub(super) const MIN_LIFE: Duration = Duration::from_secs(2);
/// How long a result holds that was the same again and again.
const MAX_LIFE: Duration = Duration::from_secs(60);

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
    /// How long it holds at first while the rules stay the same, as far as that can be seen.
    pub(super) fn life(&self) -> Duration {
        match self {
            Self::Passes => Duration::ZERO,
            // What was not found may be found the next time: iptables-legacy may have changed meanwhile.
            Self::Dropped { legacy: true, .. } | Self::Unknown(_) => MIN_LIFE,
            Self::Dropped { .. } | Self::SourceNat(_) | Self::Guarded => ANALYSIS_LIFE,
        }
    }

    /// Whether it says the same as another one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dropped { cause, .. }, Self::Dropped { cause: other, .. })
            | (Self::SourceNat(cause), Self::SourceNat(other))
            | (Self::Unknown(cause), Self::Unknown(other)) => cause == other,
            (Self::Passes, Self::Passes) | (Self::Guarded, Self::Guarded) => true,
            _ => false,
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

/// How long a result holds. A firewall that lets only some services pass is not analysed again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    generation: u32,
    at: Instant,
    len: Duration,
    /// Results in a row that said the same.
    same: u32,
}

impl Life {
    pub(super) fn new(generation: u32, len: Duration) -> Self {
        Self { generation, at: Instant::now(), len, same: 0 }
    }

    /// Of a result that says the same.
    pub(super) fn longer(self, generation: u32) -> Self {
        let len = (self.len * 2).clamp(MIN_LIFE, MAX_LIFE);
        Self { generation, at: Instant::now(), len, same: self.same.saturating_add(1) }
    }

    /// Whether it still holds. With other rules it is looked for again, and not at once where that has found
    /// the same before: some programs change the rules all the time.
    pub(super) fn holds(&self, generation: u32) -> bool {
        let len = match (self.generation == generation, self.same) {
            (true, _) => self.len,
            (false, 0..=2) => Duration::ZERO,
            (false, _) => self.len / 8,
        };
        self.at.elapsed() < len
    }

    /// It has been the same for so long that nothing is expected to change soon.
    pub(super) fn is_settled(&self) -> bool {
        self.len == MAX_LIFE
    }

    /// The rules were changed by this process alone.
    pub(super) fn follow(&mut self, old: u32, new: u32) {
        if self.generation == old {
            self.generation = new;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_stays_the_same_is_looked_for_ever_less_often() {
        let mut life = Life::new(1, MIN_LIFE);
        let mut total = Duration::ZERO;
        for _ in 0..5 {
            assert!(life.holds(1) && !life.is_settled());
            total += life.len;
            life = life.longer(1);
        }
        assert!(life.is_settled() && life.longer(1).len == MAX_LIFE);
        assert_eq!(total, Duration::from_secs(62));
        assert!(Life::new(1, Duration::ZERO).longer(1).len == MIN_LIFE);
    }

    #[test]
    fn with_other_rules_it_is_looked_for_at_once_unless_they_change_all_the_time() {
        let first = Life::new(1, ANALYSIS_LIFE);
        assert!(first.holds(1) && !first.holds(2));
        let mut own = first;
        own.follow(1, 3);
        assert!(own.holds(3) && !own.holds(2));
        own.follow(1, 4);
        assert!(own.holds(3));
        let later = first.longer(2).longer(3).longer(4);
        assert!(later.holds(5));
    }

    #[test]
    fn results_are_alike_if_their_cause_is() {
        let dropped = |text: &str, partly: &[&str]| Verdict::Dropped {
            cause: Cause { text: text.to_owned(), fix: None },
            partly: partly.iter().map(|name| (*name).to_owned()).collect(),
            legacy: true,
        };
        assert!(dropped("a", &["ping"]).is_like(&dropped("a", &[])));
        assert!(!dropped("a", &[]).is_like(&dropped("b", &[])));
        assert!(!dropped("a", &[]).is_like(&Verdict::Passes));
    }
}

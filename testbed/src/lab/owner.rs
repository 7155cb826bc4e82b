//! Names that say whose a lab is, so that leftovers can be told from labs in use without any record
//! beside them.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

const RADIX: u32 = 36;

/// `cf.<pid>.<start>.<number>`, the numbers in base 36: the owning process, its start time (a
/// process id comes again, that pair doesn't), and which of its labs; with `.kept` behind it if the
/// lab is to stay without its owner. A namespace's name is this, `-`, and the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LabId {
    pid: u32,
    start: u64,
    number: u32,
    kept: bool,
}

const KEPT: &str = ".kept";

impl LabId {
    /// The next one of this process.
    pub(super) fn next(kept: bool) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let start = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, start, number: NEXT.fetch_add(1, Ordering::Relaxed), kept })
    }

    /// The lab that a namespace belongs to, if its name is one of ours.
    pub(super) fn of_namespace(name: &str) -> Option<Self> {
        name.split_once('-')?.0.parse().ok()
    }

    pub(super) fn owner(&self) -> u32 {
        self.pid
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether the process that made it still runs.
    pub(super) fn is_owned(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, start, number) =
            (base36(self.pid.into()), base36(self.start), base36(self.number.into()));
        let kept = if self.kept { KEPT } else { "" };
        write!(f, "cf.{pid}.{start}.{number}{kept}")
    }
}

/// The name isn't one that we give.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotOurs;

impl FromStr for LabId {
    type Err = NotOurs;

    fn from_str(name: &str) -> Result<Self, NotOurs> {
        let (numbers, kept) = match name.strip_suffix(KEPT) {
            Some(numbers) => (numbers, true),
            None => (name, false),
        };
        let mut parts = numbers.strip_prefix("cf.").ok_or(NotOurs)?.split('.');
        let mut part = || u64::from_str_radix(parts.next()?, RADIX).ok();
        let (Some(pid), Some(start), Some(number)) = (part(), part(), part()) else {
            return Err(NotOurs);
        };
        let (Ok(pid), Ok(number)) = (pid.try_into(), number.try_into()) else {
            return Err(NotOurs);
        };
        let id = Self { pid, start, number, kept };
        // One spelling only, so that a name made from it is the name it came from.
        if id.to_string() == name { Ok(id) } else { Err(NotOurs) }
    }
}

fn base36(mut n: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(n % u64::from(RADIX)).expect("smaller than the radix");
        digits.push(char::from_digit(digit, RADIX).expect("smaller than the radix"));
        n /= u64::from(RADIX);
        if n == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

/// When a living process started, in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    start_time_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3 and 22 of proc_pid_stat(5), counted from behind the command, which may contain
/// anything. A zombie is dead.
fn start_time_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_a_namespace_of_its_lab() {
        let id = LabId { pid: 4_194_304, start: 123_456_789, number: 3, kept: false };
        assert_eq!(id.to_string(), "cf.2hwcg.21i3v9.3");
        for id in [id, LabId { kept: true, ..id }] {
            assert_eq!(LabId::of_namespace(&format!("{id}-aws-hk-edge")), Some(id));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn other_peoples_namespaces_are_not_ours() {
        for name in [
            "cfd-worker-1-x",
            "cf",
            "cf.1.2-x",
            "cf.01.2.3-x",
            "CF.1.2.3-x",
            "cf.1.2.3.4-x",
            "cf.1.2.3",
            "cf.1.+2.3-x",
        ] {
            assert_eq!(LabId::of_namespace(name), None, "{name}");
        }
    }

    #[test]
    fn a_process_is_alive_only_with_its_own_start_time() {
        let own = LabId::next(false).unwrap();
        assert!(own.is_owned());
        assert!(!LabId { start: own.start + 1, ..own }.is_owned());
    }

    #[test]
    fn a_command_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8642 1 1";
        assert_eq!(start_time_in(stat), Some(8642));
        assert_eq!(start_time_in(&stat.replace(" S ", " Z ")), None);
    }
}

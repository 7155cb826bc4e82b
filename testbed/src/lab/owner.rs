//! IDs of labs. They contain the owner, so that stale labs can be recognised without any record.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::procfs::start_time;

const RADIX: u32 = 36;

/// `cf.<pid>.<start>.<number>` with the numbers in base 36: the owning process, its start time
/// (process IDs are reused, the pair is not), and a counter of its labs; followed by `.kept` if the
/// lab stays after its owner. A namespace's name is the ID, `-`, and the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LabId {
    pid: u32,
    start: u64,
    number: u32,
    kept: bool,
}

const KEPT: &str = ".kept";

impl LabId {
    /// Returns a new ID owned by this process.
    pub(super) fn next(kept: bool) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let start = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, start, number: NEXT.fetch_add(1, Ordering::Relaxed), kept })
    }

    /// The lab that a namespace belongs to; `None` if it is no lab's.
    pub(super) fn of_namespace(name: &str) -> Option<Self> {
        name.split_once('-')?.0.parse().ok()
    }

    pub(super) fn owner(&self) -> u32 {
        self.pid
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

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

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotALabId;

impl FromStr for LabId {
    type Err = NotALabId;

    fn from_str(name: &str) -> Result<Self, NotALabId> {
        let (numbers, kept) = match name.strip_suffix(KEPT) {
            Some(numbers) => (numbers, true),
            None => (name, false),
        };
        let mut parts = numbers.strip_prefix("cf.").ok_or(NotALabId)?.split('.');
        let mut part = || u64::from_str_radix(parts.next()?, RADIX).ok();
        let (Some(pid), Some(start), Some(number)) = (part(), part(), part()) else {
            return Err(NotALabId);
        };
        let (Ok(pid), Ok(number)) = (pid.try_into(), number.try_into()) else {
            return Err(NotALabId);
        };
        let id = Self { pid, start, number, kept };
        // Only the canonical spelling, so that formatting the ID gives the same name again.
        if id.to_string() == name { Ok(id) } else { Err(NotALabId) }
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
}

//! What processes have used of the processors.

use anyhow::{Context, Result};

use crate::Process;

/// User and system time of all threads of the processes since their start, in seconds (`utime` and `stime` of
/// proc(5)).
pub(crate) fn seconds(processes: &[&Process]) -> Result<f64> {
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    processes.iter().map(|process| Ok(ticks_of(process.pid())? as f64 / per_second)).sum()
}

fn ticks_of(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    ticks(&stat).with_context(|| format!("{path} is not as proc(5) has it: {stat}"))
}

/// The name of the program, in brackets, may have spaces and brackets itself.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 1 0 99 1 1";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("42 (a) S 1"), None);
    }

    #[test]
    fn this_very_process_has_used_time() {
        assert!(ticks_of(std::process::id()).is_ok());
    }
}

//! Values of processes from `/proc`, see proc(5).

use std::fs;

use anyhow::{Context, Result};

/// When a process started, in clock ticks since boot; `None` if it has ended, zombies included.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat_field(&stat, 3)?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    stat_field(&stat, 22)?.parse().ok()
}

/// User and system time of all threads since the process started, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks =
        cpu_ticks(&stat).with_context(|| format!("unexpected content of {path}: {stat}"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// User and system time of the threads of this name since they started, in seconds. Threads that have ended are left out.
pub(crate) fn thread_cpu_seconds(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/task");
    let mut ticks = 0;
    for thread in fs::read_dir(&path).with_context(|| format!("reading {path}"))? {
        let thread = thread?.path();
        let read = |file: &str| fs::read_to_string(thread.join(file));
        // A thread may end meanwhile.
        let (Ok(found), Ok(stat)) = (read("comm"), read("stat")) else { continue };
        if found.trim_end() == name {
            ticks += cpu_ticks(&stat).with_context(|| format!("unexpected content: {stat}"))?;
        }
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// A field of `/proc/PID/status` in KiB, such as `VmRSS`.
pub(crate) fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.strip_suffix(" kB"))
        .and_then(|value| value.trim().parse().ok())
        .with_context(|| format!("no {field} in {path}"))
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(stat_field(stat, 14)?.parse::<u64>().ok()? + stat_field(stat, 15)?.parse::<u64>().ok()?)
}

/// A field of `/proc/PID/stat` after the second, numbered as in proc_pid_stat(5). The second is
/// the program's name in brackets, which may contain spaces and brackets itself.
fn stat_field(stat: &str, number: usize) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 1 0 8642 1 1";
        assert_eq!(stat_field(stat, 3), Some("S"));
        assert_eq!(stat_field(stat, 22), Some("8642"));
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_started_and_used_cpu_and_memory() {
        let pid = std::process::id();
        assert!(start_time(pid).is_some());
        assert!(cpu_seconds(pid).is_ok());
        assert_eq!(thread_cpu_seconds(pid, "no such thread").unwrap(), 0.0);
        assert!(status_kib(pid, "VmRSS").unwrap() > 0);
    }

    #[test]
    fn a_zombie_has_no_start_time() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = || start_time(child.id()).is_none();
        crate::wait::wait_until(std::time::Duration::from_secs(5), ended).unwrap();
        child.wait().unwrap();
    }
}

//! The machine and the commit, for the report.

use std::fs;
use std::process::Command;
use std::thread;

/// Kernel, cores and CPU, a line each.
pub(super) fn describe() -> Vec<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").ok();
    let cpu = cpu.as_deref().and_then(model).unwrap_or("unknown");
    vec![format!("Linux {}", kernel.trim()), format!("{cores} cores: {cpu}")]
}

/// The commit of the working directory, followed by `+` if there are uncommitted changes.
pub(super) fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "no commit".to_owned();
    };
    // The report in doc/ is written by the run itself.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":!doc"]);
    if changed.is_none_or(|changes| changes.is_empty()) { commit } else { format!("{commit}+") }
}

fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_read_from_cpuinfo() {
        assert_eq!(model("processor\t: 0\nmodel name\t: A B\nflags\t: x\n"), Some("A B"));
        assert_eq!(model(""), None);
    }
}

//! What the controller's process has used.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::Process;
use crate::bench::cpu_seconds;

/// CPU time from a moment on.
pub(super) struct Usage {
    cpu: f64,
    since: Instant,
}

impl Usage {
    pub(super) fn begin(controller: &Process) -> Result<Self> {
        Ok(Self { cpu: cpu_seconds(&[controller])?, since: Instant::now() })
    }

    /// Seconds of CPU time since then. The process must be the same.
    pub(super) fn cpu(&self, controller: &Process) -> Result<f64> {
        Ok(cpu_seconds(&[controller])? - self.cpu)
    }

    /// The same as a share of one core, in percent.
    pub(super) fn percent(&self, controller: &Process) -> Result<f64> {
        Ok(100.0 * self.cpu(controller)? / self.since.elapsed().as_secs_f64())
    }
}

/// Resident memory in MiB: now, and the most there was.
pub(super) fn memory(controller: &Process) -> Result<(f64, f64)> {
    let mib = |kib: u64| kib as f64 / 1024.0;
    Ok((mib(controller.rss_kib()?), mib(controller.peak_rss_kib()?)))
}

/// A counter of `/metrics`, all of its labels together.
pub(super) fn counter(metrics: &str, name: &str) -> Result<f64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value =
            rest.strip_prefix(' ').or_else(|| Some(rest.strip_prefix('{')?.split_once("} ")?.1));
        value?.trim().parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value).with_context(|| format!("no {name} in the metrics"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_sum_over_its_labels() {
        let text = "# TYPE a counter\na_total{k=\"x\"} 3\na_total{k=\"y\"} 4\nab_total 9\nb 2\n";
        assert_eq!(counter(text, "a_total").unwrap(), 7.0);
        assert_eq!(counter(text, "b").unwrap(), 2.0);
        assert!(counter(text, "c").is_err());
    }
}

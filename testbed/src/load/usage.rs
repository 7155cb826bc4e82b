//! What the controller's process uses.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::bench::cpu_seconds;
use crate::process::Process;

/// The CPU time that a process uses after `start`.
pub(super) struct CpuUsage {
    cpu: f64,
    since: Instant,
}

impl CpuUsage {
    pub(super) fn start(controller: &Process) -> Result<Self> {
        Ok(Self { cpu: cpu_seconds(&[controller])?, since: Instant::now() })
    }

    /// Seconds of CPU time since the start. The process must be the same one.
    pub(super) fn seconds(&self, controller: &Process) -> Result<f64> {
        Ok(cpu_seconds(&[controller])? - self.cpu)
    }

    /// Share of one core since the start, in percent.
    pub(super) fn percent(&self, controller: &Process) -> Result<f64> {
        Ok(100.0 * self.seconds(controller)? / self.since.elapsed().as_secs_f64())
    }
}

/// The value of a counter in the text of `/metrics`, summed over all labels.
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

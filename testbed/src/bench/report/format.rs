//! Metrics, units and numbers in the report's tables.

use crate::bench::scenario::{Scenario, Workload};

/// The metrics of a scenario's table. The first one is compared with the other contenders'.
pub(super) fn metrics(scenario: &Scenario) -> Vec<&'static str> {
    const PING: [&str; 2] = ["ping_p50_ms", "ping_p99_ms"];
    const BULK: [&str; 4] = ["mbit", "cpu_s_per_gb", "rss_mib", "retransmits"];
    match scenario.workload {
        Workload::Packets { .. } => vec!["pps"],
        Workload::Start => vec!["start_ms"],
        Workload::Ping => PING.to_vec(),
        // The CPU is the point of a paced flow.
        Workload::Tcp(tcp) if tcp.mbit.is_some() => vec!["cpu_s_per_gb", "mbit"],
        Workload::Tcp(tcp) if tcp.ping && tcp.congestion.is_none() => {
            vec![PING[1], PING[0], BULK[0], BULK[1]]
        }
        Workload::Tcp(tcp) if tcp.ping => vec![BULK[0], PING[0], PING[1], BULK[1]],
        Workload::Tcp(_) => BULK.to_vec(),
    }
}

/// The heading of a metric's column.
pub(super) fn unit(metric: &str) -> &'static str {
    match metric {
        "mbit" => "Mbit/s",
        "cpu_s_per_gb" => "CPU s/GB",
        "rss_mib" => "peak RSS, MiB",
        "retransmits" => "retransmits",
        "pps" => "packets/s",
        "start_ms" => "ms",
        "ping_p50_ms" => "ping p50, ms",
        "ping_p99_ms" => "ping p99, ms",
        _ => "?",
    }
}

/// Three significant digits, with separators of thousands.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => thousands(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::scenario;

    #[test]
    fn figures_have_three_significant_digits() {
        for (value, text) in [
            (0.17, "0.170"),
            (0.0, "0.00"),
            (2.2, "2.20"),
            (51.04, "51.0"),
            (150_000.4, "150,000"),
            (1_234_567.0, "1,234,567"),
            (978.0, "978"),
        ] {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn every_metric_has_a_unit() {
        for scenario in scenario::all() {
            for metric in metrics(&scenario) {
                assert_ne!(unit(metric), "?", "{metric}");
            }
        }
    }
}

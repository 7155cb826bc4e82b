//! Measured figures and their targets.

use std::fmt;

use crate::bench::percentile;

/// The figures of a run, printed as they are recorded.
#[derive(Debug, Default)]
pub struct Report {
    scenario: &'static str,
    figures: Vec<Figure>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    pub scenario: &'static str,
    pub name: String,
    pub value: f64,
    /// `s`, `ms`, `MiB`, `bytes`, …; empty for a count.
    pub unit: &'static str,
    /// The largest acceptable value.
    pub target: Option<f64>,
}

impl Figure {
    pub fn is_missed(&self) -> bool {
        self.target.is_some_and(|target| self.value.is_nan() || self.value > target)
    }
}

impl Report {
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// The value of one figure.
    pub fn figure(&self, scenario: &str, name: &str) -> Option<f64> {
        let mut figures = self.figures.iter();
        Some(figures.find(|figure| figure.scenario == scenario && figure.name == name)?.value)
    }

    /// How many figures miss their targets.
    pub fn missed(&self) -> usize {
        self.figures.iter().filter(|figure| figure.is_missed()).count()
    }

    pub(super) fn start_scenario(&mut self, scenario: &'static str) {
        println!("{scenario}");
        self.scenario = scenario;
    }

    pub(super) fn record(&mut self, name: &str, value: f64, unit: &'static str) {
        self.add(name, value, unit, None);
    }

    /// Records a figure whose value may be `target` at most.
    pub(super) fn record_bounded(
        &mut self,
        name: &str,
        value: f64,
        unit: &'static str,
        target: f64,
    ) {
        self.add(name, value, unit, Some(target));
    }

    fn add(&mut self, name: &str, value: f64, unit: &'static str, target: Option<f64>) {
        let figure = Figure { scenario: self.scenario, name: name.to_owned(), value, unit, target };
        println!("{figure}");
        self.figures.push(figure);
    }
}

/// The value that a share of the values does not exceed; NaN if there are none.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    percentile(values, share).unwrap_or(f64::NAN)
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, unit, target, .. } = self;
        let digits = if *value >= 100.0 || value.fract() == 0.0 { 0 } else { 2 };
        write!(f, "  {name:<58} {value:>10.digits$} {unit:<8}")?;
        match target {
            None => Ok(()),
            Some(target) if self.is_missed() => write!(f, " at most {target}: MISSED"),
            Some(target) => write!(f, " at most {target}: met"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_a_number_misses_every_target() {
        let mut report = Report::default();
        report.start_scenario("edit");
        report.record_bounded("p50", 3.0, "ms", 250.0);
        report.record_bounded("p95", f64::NAN, "ms", 250.0);
        report.record("edges", 1000.0, "");
        assert_eq!(report.missed(), 1);
        assert_eq!(report.figure("edit", "p50"), Some(3.0));
        assert_eq!(report.figure("edit", "p99"), None);
    }
}

//! Figures, and whether they are as they should be.

use std::fmt;

/// What was measured, as it is printed.
#[derive(Debug, Default)]
pub struct Report {
    scenario: &'static str,
    figures: Vec<Figure>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The scenario that it is of.
    pub scenario: &'static str,
    /// What it is.
    pub what: String,
    /// How much.
    pub value: f64,
    /// Of what: `s`, `ms`, `MiB`, `bytes`, …
    pub unit: &'static str,
    /// What it may be at most, if anything is promised.
    pub most: Option<f64>,
}

impl Figure {
    /// Whether it is more than it may be.
    pub fn is_missed(&self) -> bool {
        self.most.is_some_and(|most| self.value.is_nan() || self.value > most)
    }
}

impl Report {
    /// The figures so far.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// The figure of a scenario.
    pub fn figure(&self, scenario: &str, what: &str) -> Option<f64> {
        let mut figures = self.figures.iter();
        Some(figures.find(|figure| figure.scenario == scenario && figure.what == what)?.value)
    }

    /// How many miss their target.
    pub fn missed(&self) -> usize {
        self.figures.iter().filter(|figure| figure.is_missed()).count()
    }

    pub(super) fn begin(&mut self, scenario: &'static str) {
        println!("{scenario}");
        self.scenario = scenario;
    }

    /// Takes a figure in and prints it.
    pub(super) fn tell(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.add(Figure { scenario: self.scenario, what: what.into(), value, unit, most: None });
    }

    /// The same for one that may be so much at most.
    pub(super) fn bound(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        most: f64,
    ) {
        let most = Some(most);
        self.add(Figure { scenario: self.scenario, what: what.into(), value, unit, most });
    }

    fn add(&mut self, figure: Figure) {
        println!("{figure}");
        self.figures.push(figure);
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, unit, most, .. } = self;
        let digits = if *value >= 100.0 || value.fract() == 0.0 { 0 } else { 2 };
        write!(f, "  {what:<58} {value:>10.digits$} {unit:<8}")?;
        match most {
            None => Ok(()),
            Some(most) if self.is_missed() => write!(f, " at most {most}: MISSED"),
            Some(most) => write!(f, " at most {most}: met"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_misses_every_bound() {
        let mut report = Report::default();
        report.begin("edit");
        report.bound("p50", 3.0, "ms", 250.0);
        report.bound("p95", f64::NAN, "ms", 250.0);
        report.tell("edges", 1000.0, "");
        assert_eq!(report.missed(), 1);
        assert_eq!(report.figure("edit", "p50"), Some(3.0));
        assert_eq!(report.figure("edit", "p99"), None);
    }
}

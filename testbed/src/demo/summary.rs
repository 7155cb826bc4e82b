use std::fmt;
use std::time::Duration;

/// The table at the end.
#[derive(Debug, Default)]
pub(super) struct Summary {
    rows: Vec<Row>,
    pub(super) took: Duration,
}

#[derive(Debug)]
struct Row {
    what: &'static str,
    seen: String,
    good: bool,
}

impl Summary {
    /// Adds what was seen, and whether it is as it should be.
    pub(super) fn saw(&mut self, what: &'static str, seen: impl Into<String>, good: bool) {
        self.rows.push(Row { what, seen: seen.into(), good });
    }

    pub(super) fn is_good(&self) -> bool {
        self.rows.iter().all(|row| row.good)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
        writeln!(f, "\n== What was seen")?;
        for Row { what, seen, good } in &self.rows {
            let verdict = if *good { "ok  " } else { "FAIL" };
            writeln!(f, "  {verdict}  {what:<width$}  {seen}")?;
        }
        let verdict = if self.is_good() { "All as it should be" } else { "Something failed" };
        write!(f, "{verdict}, in {:.1} s.", self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_the_whole() {
        let mut summary = Summary::default();
        summary.saw("pings", "6 of 6", true);
        assert!(summary.is_good());
        summary.saw("revocation", "still there", false);
        assert!(!summary.is_good());
        let text = summary.to_string();
        assert!(text.contains("ok    pings       6 of 6"), "{text}");
        assert!(text.contains("FAIL  revocation  still there"), "{text}");
    }
}

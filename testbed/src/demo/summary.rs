use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Summary {
    rows: Vec<Row>,
    pub(super) duration: Duration,
}

#[derive(Debug)]
struct Row {
    check: &'static str,
    result: String,
    passed: bool,
}

impl Summary {
    pub(super) fn add(&mut self, check: &'static str, result: impl Into<String>, passed: bool) {
        self.rows.push(Row { check, result: result.into(), passed });
    }

    pub(super) fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.passed)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.check.len()).max().unwrap_or(0);
        writeln!(f, "\n== Summary")?;
        for Row { check, result, passed } in &self.rows {
            let verdict = if *passed { "ok  " } else { "FAIL" };
            writeln!(f, "  {verdict}  {check:<width$}  {result}")?;
        }
        let verdict = if self.passed() { "All checks passed" } else { "Some checks failed" };
        write!(f, "{verdict}, in {:.1} s.", self.duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_check_fails_the_demo() {
        let mut summary = Summary::default();
        summary.add("pings", "6 of 6", true);
        assert!(summary.passed());
        summary.add("revocation", "still there", false);
        assert!(!summary.passed());
        let text = summary.to_string();
        assert!(text.contains("ok    pings       6 of 6"), "{text}");
        assert!(text.contains("FAIL  revocation  still there"), "{text}");
    }
}

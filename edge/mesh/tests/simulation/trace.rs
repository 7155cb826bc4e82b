//! Everything that happened, as a digest to compare and as text to read.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    time::Duration,
};

pub(crate) struct Trace {
    digest: DefaultHasher,
    verbose: bool,
}

impl Trace {
    /// `verbose`: also print to standard error, which tests don't capture.
    pub(crate) fn new(verbose: bool) -> Self {
        Self { digest: DefaultHasher::new(), verbose }
    }

    /// Adds a frequent event to the digest only.
    pub(crate) fn record(&mut self, what: impl Hash) {
        what.hash(&mut self.digest);
    }

    pub(crate) fn log(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        (at, what.to_string()).hash(&mut self.digest);
        if self.verbose {
            let seconds = at.as_secs_f64();
            let _ = writeln!(std::io::stderr(), "{seconds:>10.4} s  {what}");
        }
    }

    /// Equal for two runs in which the same happened at the same times.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }
}

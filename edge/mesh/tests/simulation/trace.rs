//! What happened, as a number to compare and as text to read.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    time::Duration,
};

#[derive(Default)]
pub(crate) struct Trace {
    digest: DefaultHasher,
    aloud: bool,
}

impl Trace {
    /// One that also prints what it is told, to the error output, which tests don't capture.
    pub(crate) fn aloud() -> Self {
        Self { aloud: true, ..Self::default() }
    }

    /// A thing that happened, with numbers: too many to print.
    pub(crate) fn note(&mut self, what: impl Hash) {
        what.hash(&mut self.digest);
    }

    /// A thing that is worth a line.
    pub(crate) fn say(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        (at, what.to_string()).hash(&mut self.digest);
        if self.aloud {
            let seconds = at.as_secs_f64();
            let _ = writeln!(std::io::stderr(), "{seconds:>10.4} s  {what}");
        }
    }

    /// The same for two lives in which all happened the same, at the same times.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }
}

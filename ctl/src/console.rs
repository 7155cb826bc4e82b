//! Where answers, remarks and questions go.

use std::io::{self, BufRead, Write};

use serde::Serialize;

use crate::{
    args::Format,
    failure::{Exit, Failure, printable},
    table::Tone,
};

/// Standard input, output and error, and how to treat them.
pub struct Console<'a> {
    /// Answers.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
    /// A person's answers to questions.
    pub input: &'a mut dyn BufRead,
    /// How.
    pub manner: Manner,
}

/// How answers, remarks and questions are treated.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Format of answers.
    pub format: Format,
    /// Colours in answers.
    pub color_out: bool,
    /// Colours in everything else.
    pub color_err: bool,
    /// No remarks.
    pub quiet: bool,
    /// A person can be asked: input and error are terminals.
    pub interactive: bool,
    /// Progress can be redrawn: error is a terminal.
    pub progress: bool,
}

/// An answer that has both forms.
pub trait Answer {
    /// For `-o table`, or `-o wide`.
    fn table(&self, wide: bool, color: bool) -> String;
    /// For `-o json` and `-o yaml`.
    fn data(&self) -> impl Serialize;
}

impl Console<'_> {
    /// Prints an answer in the format that is asked for.
    ///
    /// # Errors
    /// When standard output can't be written. A reader that has gone away is no error: what is
    /// left has nobody to go to.
    pub fn answer(&mut self, answer: &impl Answer) -> Result<(), Failure> {
        let text = match self.manner.format {
            Format::Table => answer.table(false, self.manner.color_out),
            Format::Wide => answer.table(true, self.manner.color_out),
            Format::Json | Format::Yaml => return self.data(&answer.data()),
        };
        self.print(&text)
    }

    /// Prints JSON or YAML, as is asked for.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn data(&mut self, data: &impl Serialize) -> Result<(), Failure> {
        let text = if self.manner.format == Format::Yaml {
            serde_yaml_ng::to_string(data).map_err(anyhow::Error::from)?
        } else {
            let mut text = serde_json::to_string_pretty(data).map_err(anyhow::Error::from)?;
            text.push('\n');
            text
        };
        self.print(&text)
    }

    /// Whether answers are for programs.
    pub fn structured(&self) -> bool {
        matches!(self.manner.format, Format::Json | Format::Yaml)
    }

    /// Prints text to standard output as it is.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.offer(text).map(drop)
    }

    /// Prints text to standard output as it is, and says whether somebody still reads there.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn offer(&mut self, text: &str) -> Result<bool, Failure> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => {
                Err(Failure::new(Exit::Error, format!("standard output can't be written: {error}")))
            }
        }
    }

    /// A remark, unless quiet.
    pub fn note(&mut self, text: &str) {
        if !self.manner.quiet {
            self.line("", Tone::Plain, text);
        }
    }

    /// A warning; also when quiet, for it is about traffic.
    pub fn warn(&mut self, text: &str) {
        self.line("warning: ", Tone::Doubtful, text);
    }

    /// Says why the command failed.
    pub fn fail(&mut self, failure: &Failure) {
        self.line("error: ", Tone::Bad, &failure.message);
        if let Some(hint) = &failure.hint {
            self.line("hint: ", Tone::Doubtful, hint);
        }
    }

    /// Redraws the line of progress, where that can be seen.
    pub fn progress(&mut self, text: &str) {
        if self.manner.progress && !self.manner.quiet {
            let _ = write!(self.err, "\r\u{1b}[K{}", printable(text));
            let _ = self.err.flush();
        }
    }

    /// Takes the line of progress away.
    pub fn progress_done(&mut self) {
        self.progress("");
    }

    /// Standard error has nowhere to report its own failure to.
    fn line(&mut self, label: &str, tone: Tone, text: &str) {
        let label = tone.paint_if(self.manner.color_err, label);
        let _ = writeln!(self.err, "{label}{}", printable(text));
    }
}

impl Console<'_> {
    /// Whether somebody is there to be asked.
    ///
    /// # Errors
    /// A usage failure when nobody can be asked.
    pub fn askable(&self, action: &str) -> Result<(), Failure> {
        if self.manner.interactive {
            return Ok(());
        }
        let message = format!("{action} breaks traffic, and there is no terminal to confirm it on");
        Err(Failure::new(Exit::Usage, message)
            .hint("add --yes to do it, or --dry-run to see what it would break"))
    }

    /// Says what would break.
    pub fn tell(&mut self, impact: &[String]) {
        for line in impact {
            self.line("", Tone::Plain, line);
        }
    }

    /// Says what would break, and asks. Anything but yes is no.
    ///
    /// # Errors
    /// When the answer is no.
    pub fn confirm(&mut self, impact: &[String]) -> Result<(), Failure> {
        self.tell(impact);
        let _ = write!(self.err, "Continue? [y/N] ");
        let _ = self.err.flush();
        let mut line = String::new();
        let read = self.input.read_line(&mut line);
        let yes = ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str());
        if yes && read.is_ok() {
            return Ok(());
        }
        Err(Failure::new(Exit::Error, "not confirmed; nothing was changed"))
    }
}

/// `3 edges`, `1 edge`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

//! The terminal: answers on standard output, everything else on standard error, questions.

use std::io::{BufRead, Write};

use cframe_console::{exit::Exit, output};
use cframe_protocol::text::printable;
use serde::Serialize;

use crate::{args::Format, failure::Failure, table::Tone};

pub struct Console<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    pub input: &'a mut dyn BufRead,
    pub style: Style,
}

/// How to print, and whether to ask.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub format: Format,
    pub color_out: bool,
    pub color_err: bool,
    pub quiet: bool,
    /// A person can be asked: input and error are terminals.
    pub interactive: bool,
    /// A line of progress can be redrawn: error is a terminal.
    pub progress: bool,
}

/// An answer, as a table and as data.
pub trait Answer {
    /// For `-o table`, or with `wide` for `-o wide`.
    fn table(&self, wide: bool, color: bool) -> String;
    /// For `-o json` and `-o yaml`.
    fn data(&self) -> impl Serialize;
}

impl Console<'_> {
    /// Prints an answer in the format of `-o`.
    pub fn answer(&mut self, answer: &impl Answer) -> Result<(), Failure> {
        let text = match self.style.format {
            Format::Table => answer.table(false, self.style.color_out),
            Format::Wide => answer.table(true, self.style.color_out),
            Format::Json | Format::Yaml => return self.data(&answer.data()),
        };
        self.print(&text)
    }

    /// Prints JSON, or YAML with `-o yaml`.
    pub fn data(&mut self, data: &impl Serialize) -> Result<(), Failure> {
        let text = if self.style.format == Format::Yaml {
            serde_yaml_ng::to_string(data).map_err(anyhow::Error::from)?
        } else {
            serde_json::to_string_pretty(data).map_err(anyhow::Error::from)? + "\n"
        };
        self.print(&text)
    }

    /// Whether answers are for programs: JSON or YAML.
    pub fn structured(&self) -> bool {
        matches!(self.style.format, Format::Json | Format::Yaml)
    }

    /// Prints text to standard output.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.print_to_reader(text).map(drop)
    }

    /// Prints text to standard output. Returns false when the reader has gone away.
    pub fn print_to_reader(&mut self, text: &str) -> Result<bool, Failure> {
        output::write(self.out, text).map_err(|error| {
            Failure::new(Exit::Error, format!("standard output can't be written: {error}"))
        })
    }

    /// Prints a message to standard error, unless `--quiet` is given.
    pub fn info(&mut self, text: &str) {
        if !self.style.quiet {
            self.print_line("", Tone::Plain, text);
        }
    }

    /// Prints a warning, also with `--quiet`: it is about traffic.
    pub fn warn(&mut self, text: &str) {
        self.print_line("warning: ", Tone::Warning, text);
    }

    /// Prints why the command failed.
    pub fn fail(&mut self, failure: &Failure) {
        self.print_line("error: ", Tone::Bad, &failure.message);
        if let Some(hint) = &failure.hint {
            self.print_line("hint: ", Tone::Warning, hint);
        }
    }

    /// Redraws the line of progress, on a terminal.
    pub fn progress(&mut self, text: &str) {
        if self.style.progress && !self.style.quiet {
            let _ = write!(self.err, "\r\u{1b}[K{}", printable(text));
            let _ = self.err.flush();
        }
    }

    pub fn clear_progress(&mut self) {
        self.progress("");
    }

    /// Errors of standard error are ignored: there is nowhere to report them.
    fn print_line(&mut self, label: &str, tone: Tone, text: &str) {
        let label = tone.paint_if(self.style.color_err, label);
        let _ = writeln!(self.err, "{label}{}", printable(text));
    }
}

impl Console<'_> {
    pub fn require_terminal(&self, action: &str) -> Result<(), Failure> {
        if self.style.interactive {
            return Ok(());
        }
        let message = format!("{action} breaks traffic, and there is no terminal to confirm it on");
        Err(Failure::new(Exit::Usage, message)
            .hint("add --yes to do it, or --dry-run to see what it would break"))
    }

    pub fn print_impact(&mut self, impact: &[String]) {
        for line in impact {
            self.print_line("", Tone::Plain, line);
        }
    }

    /// Prints what would break, and asks whether to continue. Anything but yes is no.
    pub fn confirm(&mut self, impact: &[String]) -> Result<(), Failure> {
        self.print_impact(impact);
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

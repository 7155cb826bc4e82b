//! Records of the audit log.

use std::fmt::Write as _;

use cframe_protocol::v1::AuditRow;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Row;
use crate::{
    args::Format,
    console::Console,
    failure::{Failure, printable},
    moment::Millis,
    table::{Cell, Table, Tone},
};

/// A record of the audit log.
#[derive(Debug, Serialize, Deserialize)]
pub struct Audit {
    /// Its id, by which records sort.
    #[serde(default)]
    pub id: String,
    /// When, by the controller's clock, to the millisecond.
    pub time: Millis,
    /// The controller that was asked.
    pub controller: String,
    /// Who: `admin/NAME`, `edge/NAMESPACE/NAME`, `token/ID`, `controller/NAME` or `local/UID`.
    pub who: String,
    /// By which certificate, 32 hex digits.
    #[serde(default)]
    pub serial: Option<String>,
    /// From which address and port.
    #[serde(default)]
    pub from: Option<String>,
    /// What: `edge-add`, `join`, …
    pub call: String,
    /// In which namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// About what.
    #[serde(default)]
    pub subject: Option<String>,
    /// It was only rehearsed.
    #[serde(default)]
    pub dry_run: bool,
    /// `ok`, or the kind of error: `conflict`, `not_allowed`, …
    pub result: String,
    /// The error.
    #[serde(default)]
    pub message: Option<String>,
    /// What it changed, or would have.
    #[serde(default)]
    pub changes: Vec<AuditChange>,
    /// So many more changes than `changes` has.
    #[serde(default)]
    pub more_changes: u64,
    /// This record stands for so many that were not written.
    #[serde(default)]
    pub left_out: u64,
}

/// One key of the store that was written: of its fields those that differ.
#[derive(Debug, Serialize, Deserialize)]
pub struct AuditChange {
    /// The key: `edges/prod/aws-hk`.
    pub key: String,
    /// As it was; `null` if it was not there.
    pub before: Value,
    /// As it is; `null` if it is not there any more.
    pub after: Value,
}

impl Audit {
    /// Reads a row. What is in it was written by whoever made the call: nothing of it drives a terminal.
    ///
    /// # Errors
    /// If it is no record.
    pub fn read(row: &AuditRow) -> Result<Self, serde_json::Error> {
        let record: Value = serde_json::from_str(&row.record)?;
        let record: Self = serde_json::from_value(tame(record))?;
        Ok(Self { id: printable(&row.id).into_owned(), ..record })
    }

    fn summary(&self) -> String {
        let mut text = self.message.clone().unwrap_or_default();
        for AuditChange { key, before, after } in &self.changes {
            let gap = if text.is_empty() { "" } else { " " };
            let _ = match (before, after) {
                (Value::Null, _) => write!(text, "{gap}+{key} {after}"),
                (_, Value::Null) => write!(text, "{gap}-{key}"),
                _ => write!(text, "{gap}{key} {before} -> {after}"),
            };
        }
        if self.more_changes > 0 {
            let _ = write!(text, " and {} more", self.more_changes);
        }
        text
    }
}

fn tame(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(printable(&text).into_owned()),
        Value::Array(items) => Value::Array(items.into_iter().map(tame).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(field, value)| (printable(&field).into_owned(), tame(value)))
                .collect(),
        ),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

impl Row for Audit {
    const COLUMNS: &'static [&'static str] =
        &["TIME", "WHO", "CALL", "SUBJECT", "RESULT", "FROM", "CONTROLLER", "SERIAL", "CHANGES"];
    const NARROW: usize = 6;

    fn cells(&self, _now: u64) -> Vec<Cell> {
        let result = match (self.result.as_str(), self.dry_run) {
            ("ok", true) => Cell::new("dry_run").tone(Tone::Doubtful),
            ("ok", false) => Cell::new("ok"),
            (error, _) => Cell::new(error).tone(Tone::Bad),
        };
        let subject = match self.left_out {
            0 => Cell::option(self.subject.as_ref()),
            left_out => Cell::new(format!("{left_out} left out")).tone(Tone::Doubtful),
        };
        vec![
            Cell::new(self.time),
            Cell::new(&self.who),
            Cell::new(&self.call),
            subject,
            result,
            Cell::option(self.from.as_ref()),
            Cell::new(&self.controller),
            Cell::option(self.serial.as_ref()),
            Cell::new(self.summary()),
        ]
    }
}

/// Records that are printed as they come: rows of one table, or a line or document each.
#[derive(Debug, Default)]
pub struct AuditLines {
    widths: Vec<usize>,
}

impl AuditLines {
    /// Prints some more, and says whether somebody still reads.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn print(&mut self, console: &mut Console<'_>, records: &[Audit]) -> Result<bool, Failure> {
        let format = console.manner.format;
        let mut text = String::new();
        match format {
            Format::Table | Format::Wide => {
                let narrow = &Audit::COLUMNS[..Audit::NARROW];
                let mut table =
                    Table::new(if format == Format::Wide { Audit::COLUMNS } else { narrow });
                for record in records {
                    let mut cells = record.cells(0);
                    if format == Format::Table {
                        cells.truncate(Audit::NARROW);
                    }
                    table.push(cells);
                }
                text = table.render_more(&mut self.widths, console.manner.color_out);
            }
            Format::Json => {
                for record in records {
                    text.push_str(&serde_json::to_string(record).map_err(anyhow::Error::from)?);
                    text.push('\n');
                }
            }
            Format::Yaml => {
                for record in records {
                    text.push_str("---\n");
                    let document = serde_yaml_ng::to_string(record).map_err(anyhow::Error::from)?;
                    text.push_str(&document);
                }
            }
        }
        console.offer(&text)
    }
}

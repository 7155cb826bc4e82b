use std::fmt::Write as _;

use cframe_protocol::{text::printable, v1::AuditRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Row;
use crate::{
    args::Format,
    console::Console,
    failure::Failure,
    table::{Cell, Table, Tone},
    timestamp::TimestampMillis,
};

/// A record of the audit log.
// fields: the JSON of `audit`
#[derive(Debug, Serialize, Deserialize)]
pub struct Audit {
    /// Records sort by it.
    #[serde(default)]
    pub id: String,
    /// By the controller's clock, to the millisecond.
    pub time: TimestampMillis,
    /// The controller that received the call.
    pub controller: String,
    /// `admin/NAME`, `edge/NAMESPACE/NAME`, `token/ID`, `controller/NAME` or `local/UID`.
    pub who: String,
    /// The caller's certificate, 32 hex digits.
    #[serde(default)]
    pub serial: Option<String>,
    /// The caller's address and port.
    #[serde(default)]
    pub from: Option<String>,
    /// `edge-add`, `join`, …
    pub call: String,
    #[serde(default)]
    pub namespace: Option<String>,
    /// The object of the call.
    #[serde(default)]
    pub subject: Option<String>,
    /// The change was only checked.
    #[serde(default)]
    pub dry_run: bool,
    /// `ok`, or the kind of error: `conflict`, `not_allowed`, …
    pub result: String,
    /// The error.
    #[serde(default)]
    pub message: Option<String>,
    /// What the call changed, or would have changed.
    #[serde(default)]
    pub changes: Vec<AuditChange>,
    /// Number of changes that `changes` leaves out.
    #[serde(default)]
    pub more_changes: u64,
    /// Number of records that were not written; this one stands for them.
    #[serde(default)]
    pub left_out: u64,
}

/// A key of the store that was written, with those of its fields that differ.
#[derive(Debug, Serialize, Deserialize)]
pub struct AuditChange {
    /// Such as `edges/prod/aws-hk`.
    pub key: String,
    /// `null` if the key did not exist.
    pub before: Value,
    /// `null` if the key was removed.
    pub after: Value,
}

impl Audit {
    /// Reads a row. The caller may have chosen its content, so it must not control a terminal.
    pub fn read(row: &AuditRow) -> Result<Self, serde_json::Error> {
        let record: Value = serde_json::from_str(&row.record)?;
        let record: Self = serde_json::from_value(make_printable(record))?;
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

fn make_printable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(printable(&text).into_owned()),
        Value::Array(items) => Value::Array(items.into_iter().map(make_printable).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(field, value)| (printable(&field).into_owned(), make_printable(value)))
                .collect(),
        ),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

impl Row for Audit {
    const COLUMNS: &'static [&'static str] =
        &["TIME", "WHO", "CALL", "SUBJECT", "RESULT", "FROM", "CONTROLLER", "SERIAL", "CHANGES"];
    const TABLE_COLUMNS: usize = 6;

    fn cells(&self, _now: u64) -> Vec<Cell> {
        let result = match (self.result.as_str(), self.dry_run) {
            ("ok", true) => Cell::new("dry_run").tone(Tone::Warning),
            ("ok", false) => Cell::new("ok"),
            (error, _) => Cell::new(error).tone(Tone::Bad),
        };
        let subject = match self.left_out {
            0 => Cell::option(self.subject.as_ref()),
            left_out => Cell::new(format!("{left_out} left out")).tone(Tone::Warning),
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

/// Prints records as they arrive: rows of one table, or a line or document each.
#[derive(Debug, Default)]
pub struct AuditLines {
    widths: Vec<usize>,
}

impl AuditLines {
    /// Prints records. Returns false when the reader has gone away.
    pub fn print(&mut self, console: &mut Console<'_>, records: &[Audit]) -> Result<bool, Failure> {
        let format = console.style.format;
        let mut text = String::new();
        match format {
            Format::Table | Format::Wide => {
                let narrow = &Audit::COLUMNS[..Audit::TABLE_COLUMNS];
                let mut table =
                    Table::new(if format == Format::Wide { Audit::COLUMNS } else { narrow });
                for record in records {
                    let mut cells = record.cells(0);
                    if format == Format::Table {
                        cells.truncate(Audit::TABLE_COLUMNS);
                    }
                    table.push(cells);
                }
                text = table.render_more(&mut self.widths, console.style.color_out);
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
        console.print_to_reader(&text)
    }
}

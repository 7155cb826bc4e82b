//! Tables that people can read and awk can split.

use std::fmt::Write as _;

use cframe_protocol::text::printable;

/// Meaning of a cell, shown as a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Warning,
}

impl Tone {
    /// The text in the escape sequences of this tone (ECMA-48 SGR).
    pub(crate) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => 32,
            Self::Bad => 31,
            Self::Warning => 33,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    pub(crate) fn paint_if(self, color: bool, text: &str) -> String {
        if color { self.paint(text) } else { text.to_owned() }
    }
}

/// The text of one column in one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell; an empty text is shown as `-`.
    pub fn new(text: impl ToString) -> Self {
        Self { text: text.to_string(), tone: Tone::Plain }
    }

    pub fn option(text: Option<impl ToString>) -> Self {
        text.map_or_else(Self::default, Self::new)
    }

    /// Items joined by commas.
    pub fn list(items: impl IntoIterator<Item = impl ToString>) -> Self {
        let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        Self::new(items.join(","))
    }

    #[must_use]
    pub fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    /// The text to print, never empty: one word, or any text where `free`.
    fn shown(&self, free: bool) -> String {
        let text = printable(self.text.trim());
        if text.is_empty() {
            "-".to_owned()
        } else if free {
            text.into_owned()
        } else {
            text.replace(char::is_whitespace, "_")
        }
    }
}

/// Columns separated by two spaces at least, one word per cell. Only the last column may have several
/// words.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(header: impl Into<Vec<&'static str>>) -> Self {
        Self { header: header.into(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as the header.
    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.header.len());
        self.rows.push(row);
    }

    /// The header and the rows, one line each.
    pub fn render(&self, color: bool) -> String {
        let lines = self.lines();
        let mut widths = Vec::new();
        fit(&mut widths, &lines);
        self.draw(&lines, &widths, 0, color)
    }

    /// Rows that follow those printed before, whose column widths are `widths`. Without any before, the
    /// header is printed first.
    pub fn render_more(&self, widths: &mut Vec<usize>, color: bool) -> String {
        let lines = self.lines();
        let first = usize::from(!widths.is_empty());
        fit(widths, &lines);
        self.draw(&lines, widths, first, color)
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let last = self.header.len().saturating_sub(1);
        let mut lines = vec![self.header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        for row in &self.rows {
            lines.push(row.iter().enumerate().map(|(i, cell)| cell.shown(i == last)).collect());
        }
        lines
    }

    fn draw(&self, lines: &[Vec<String>], widths: &[usize], first: usize, color: bool) -> String {
        let last = self.header.len().saturating_sub(1);
        let mut out = String::new();
        for (number, line) in lines.iter().enumerate().skip(first) {
            for (i, text) in line.iter().enumerate() {
                let tone = number.checked_sub(1).map_or(Tone::Plain, |row| self.rows[row][i].tone);
                out.push_str(&tone.paint_if(color, text));
                if i != last {
                    let gap = widths[i] - text.chars().count() + 2;
                    let _ = write!(out, "{:gap$}", "");
                }
            }
            out.push('\n');
        }
        out
    }

    /// Each row as one line per column: the column's name and the cell.
    pub fn render_upright(&self, color: bool) -> String {
        let mut upright = String::new();
        let width = self.header.iter().map(|name| name.len()).max().unwrap_or(0) + 2;
        for row in &self.rows {
            for (name, cell) in self.header.iter().zip(row) {
                let text = cell.shown(true);
                let text = cell.tone.paint_if(color, &text);
                let _ = writeln!(upright, "{name:width$}{text}");
            }
        }
        upright
    }
}

/// Makes columns as wide as their widest text.
fn fit(widths: &mut Vec<usize>, lines: &[Vec<String>]) {
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, text) in widths.iter_mut().zip(line) {
            *width = text.chars().count().max(*width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["NAME", "STATE", "ABOUT"]);
        table.push(vec![
            Cell::new("aws-hk"),
            Cell::new("online").tone(Tone::Good),
            Cell::new("the first one"),
        ]);
        table.push(vec![Cell::new("a b"), Cell::option(None::<String>), Cell::new("")]);
        table
    }

    #[test]
    fn columns_line_up_and_no_cell_is_empty() {
        assert_eq!(
            sample().render(false),
            "NAME    STATE   ABOUT\n\
             aws-hk  online  the first one\n\
             a_b     -       -\n"
        );
    }

    #[test]
    fn later_rows_line_up_with_the_first() {
        let mut widths = Vec::new();
        let first = sample().render_more(&mut widths, false);
        assert_eq!(first, sample().render(false));
        let mut more = Table::new(["NAME", "STATE", "ABOUT"]);
        more.push(["b", "offline", "x"].map(Cell::new).to_vec());
        assert_eq!(more.render_more(&mut widths, false), "b       offline  x\n");
        assert_eq!(Table::new(["NAME"]).render_more(&mut widths, false), "");
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let painted = sample().render(true);
        assert!(
            painted.contains("aws-hk  \u{1b}[32monline\u{1b}[0m  the first one"),
            "{painted:?}"
        );
        let plain = painted.replace("\u{1b}[32m", "").replace("\u{1b}[0m", "");
        assert_eq!(plain, sample().render(false));
    }

    #[test]
    fn one_row_is_printed_as_a_line_per_column() {
        let mut table = Table::new(["NAME", "ENDPOINT"]);
        table.push(vec![Cell::new("aws-hk"), Cell::list(["a:1", "b:2"])]);
        assert_eq!(table.render_upright(false), "NAME      aws-hk\nENDPOINT  a:1,b:2\n");
    }

    #[test]
    fn a_cell_from_an_edge_cannot_control_the_terminal() {
        let mut table = Table::new(["SOFTWARE", "X"]);
        table.push(vec![Cell::new("1.0\u{1b}]0;evil\u{7}"), Cell::new(1)]);
        assert!(!table.render(false).contains('\u{1b}'));
    }
}

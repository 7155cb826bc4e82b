//! Answers as they are printed: tables, and JSON that scripts rely on.
//!
//! A list is an array of the objects below, one thing is one object; `-o yaml` has the same names.
//! Names are in snake_case. They are never renamed or given another meaning; new ones may be added.
//! Unknown values are `null`. Times are RFC 3339 in UTC (`2026-02-01T12:00:00Z`), networks
//! `ADDRESS/LENGTH`, endpoints `HOST:PORT`, versions objects of `epoch`, `mesh` and `namespace`.
//!
//! | command | JSON |
//! | --- | --- |
//! | `namespace list`, `show` | [`Namespace`] |
//! | `edge list`, `show` | [`Edge`] |
//! | `route list`, `show` | [`Route`] |
//! | `token list` | [`Token`] |
//! | `token create` | [`NewToken`] |
//! | `cert list`, `show` | [`Cert`] |
//! | `cert enroll` | [`NewCert`] |
//! | `admin list` | [`Admin`] |
//! | `admin add` | [`NewAdmin`] |
//! | `controller list`, `show` | [`Controller`] |
//! | `trust show` | [`Trust`] |
//! | `audit` | [`Audit`]; with `--follow` one object per line |
//! | `ca show`, `ca status` | [`Authorities`] |
//! | `ca rotate renew` | [`Renewed`] |
//! | `status` | [`Status`] |
//! | `context list`, `show` | [`Context`] |
//! | `version` | [`Versions`] |
//! | commands that change something | [`Change`] |

mod audit;
mod ca;
mod change;
mod controller;
mod edge;
mod identity;
mod namespace;
mod problem;
mod status;

use serde::Serialize;

use crate::{
    console::Answer,
    table::{Cell, Table},
};

pub use audit::{Audit, AuditLines};
pub use ca::{Authorities, Renewed};
pub use change::{Change, Subject};
pub use controller::Controller;
pub use edge::{Edge, Route};
pub use identity::{Admin, Cert, NewAdmin, NewCert, NewToken, Token, Trust};
pub use namespace::Namespace;
pub use problem::{Example, Group, Problem};
pub use status::{Context, Status, Versions};

/// Something that is listed and shown.
pub trait Row: Serialize {
    /// The columns of `-o wide`.
    const COLUMNS: &'static [&'static str];
    /// How many of the columns `-o table` has: the first ones.
    const TABLE_COLUMNS: usize;

    /// A cell for each column. `now` is in Unix seconds.
    fn cells(&self, now: u64) -> Vec<Cell>;

    /// Text below the columns of `show`.
    fn details(&self, _now: u64, _color: bool) -> String {
        String::new()
    }
}

/// A table, or an array. `now` is in Unix seconds.
pub struct List<'a, T> {
    pub items: &'a [T],
    pub now: u64,
}

/// One line per column, or an object. `now` is in Unix seconds.
pub struct One<'a, T> {
    pub item: &'a T,
    pub now: u64,
}

impl<T: Row> Answer for List<'_, T> {
    fn table(&self, wide: bool, color: bool) -> String {
        let columns = if wide { T::COLUMNS } else { &T::COLUMNS[..T::TABLE_COLUMNS] };
        let mut table = Table::new(columns);
        for item in self.items {
            let mut cells = item.cells(self.now);
            cells.truncate(columns.len());
            table.push(cells);
        }
        table.render(color)
    }

    fn data(&self) -> impl Serialize {
        self.items
    }
}

impl<T: Row> Answer for One<'_, T> {
    fn table(&self, _wide: bool, color: bool) -> String {
        let mut table = Table::new(T::COLUMNS);
        table.push(self.item.cells(self.now));
        table.render_upright(color) + &self.item.details(self.now, color)
    }

    fn data(&self) -> impl Serialize {
        self.item
    }
}

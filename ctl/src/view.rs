//! Answers as they are printed: the columns of tables, and JSON whose names are a promise.
//!
//! A list is an array of the objects below, one thing is one object; `-o yaml` has the same names.
//! Names are in snake_case and are never renamed or given another meaning; there may be more of them
//! later. What is unknown is `null`. Times are RFC 3339 in UTC (`2026-02-01T12:00:00Z`), prefixes
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
//! | what changes something | [`Change`] |

mod audit;
mod ca;
mod change;
mod controller;
mod edge;
mod identity;
mod namespace;
mod status;

use serde::Serialize;

use crate::{
    console::Answer,
    table::{Cell, Table},
};

pub use audit::{Audit, AuditChange, AuditLines};
pub use ca::{Authorities, Holders, IssuingCa, Renewed, Root};
pub use change::{Change, Subject};
pub use controller::Controller;
pub use edge::{Edge, EdgeStateName, Link, Route};
pub use identity::{Admin, Cert, CertStateName, NewAdmin, NewCert, NewToken, Token, Trust};
pub use namespace::Namespace;
pub use status::{Context, ControllerStatus, NamespaceStatus, Status, Versions};

/// A kind of thing that is listed and shown.
pub trait Row: Serialize {
    /// The columns of `-o wide`, of which the first [`NARROW`](Self::NARROW) are the table's.
    const COLUMNS: &'static [&'static str];
    /// How many columns the table has.
    const NARROW: usize;

    /// A cell for each of the columns; `now` in Unix seconds.
    fn cells(&self, now: u64) -> Vec<Cell>;

    /// What `show` has below the columns.
    fn below(&self, _now: u64, _color: bool) -> String {
        String::new()
    }
}

/// A list: a table, or an array.
pub struct List<'a, T> {
    /// Its things.
    pub items: &'a [T],
    /// The time, in Unix seconds.
    pub now: u64,
}

/// One thing: a line per column, or an object.
pub struct One<'a, T> {
    /// The thing.
    pub item: &'a T,
    /// The time, in Unix seconds.
    pub now: u64,
}

impl<T: Row> Answer for List<'_, T> {
    fn table(&self, wide: bool, color: bool) -> String {
        let columns = if wide { T::COLUMNS } else { &T::COLUMNS[..T::NARROW] };
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
        table.render_upright(color) + &self.item.below(self.now, color)
    }

    fn data(&self) -> impl Serialize {
        self.item
    }
}

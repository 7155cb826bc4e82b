//! Rules, routes and kernel settings of other programs.

mod kept;
mod scale;
mod ways;

//! Rules, routes and kernel settings of other programs.

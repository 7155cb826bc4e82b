//! The controller's store: replaced by an older copy, damaged, deleted, on a full disk.

mod damage;
mod older;

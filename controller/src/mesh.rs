//! Writing to the store and following it.

mod compare;
pub mod feed;
mod follow;
mod follow_error;
mod replica;
#[cfg(test)]
mod tests;
mod write;

pub use replica::{OpenError, Replica};

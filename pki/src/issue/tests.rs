//! What is signed, and what is not.

mod authorities;
mod leaves;
mod requests;

//! What is wrong, judged from facts in one place. Pure.

pub mod firewall;

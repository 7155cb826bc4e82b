//! IP packets on the way between a TUN device and a link: reading headers, segmentation offload in
//! both directions, fragments.
//!
//! No I/O and no clock: functions of bytes, and bounded tables that take `now` as an argument.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`ip`] | checks and reads the headers of a packet |
//! | [`split`] | TUN → link: super-packets into packets (what a network card does for GSO) |
//! | [`coalesce`] | link → TUN: packets of one flow into super-packets (GRO) |
//! | [`vnet`] | the header before each packet of the TUN |
//! | [`fragment`] | packets that are larger than the path's MTU, in pieces |
//! | [`mss`], [`ecn`], [`checksum`] | changes in place |

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

pub mod checksum;
pub mod coalesce;
pub mod ecn;
pub mod flow;
pub mod fragment;
pub mod ip;
pub mod mss;
pub mod split;
pub mod vnet;

mod arena;

//! The cost of links in the steady state, without sockets and in virtual time: allocations per
//! inner packet by source location, and the memory and CPU time of a thousand idle links.
//!
//! ```text
//! cargo bench -p cframe-mesh --bench steady              # both tables
//! cargo bench -p cframe-mesh --bench steady -- packets
//! cargo bench -p cframe-mesh --bench steady -- idle 1000
//! ```
//!
//! System calls are not included.
//!
//! # Instructions
//!
//! Where times are too noisy, callgrind counts instructions. `count N` sends N super-packets of 48
//! packets of 1,400 bytes, `count N single` or `small` N single packets of 1,400 or 64 bytes:
//!
//! ```text
//! cargo bench -p cframe-mesh --bench steady --no-run     # prints PROGRAM
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
//!     --toggle-collect='*steady::pair::send*' --toggle-collect='*steady::pair::transmit*' \
//!     PROGRAM count 400
//! valgrind … --toggle-collect='*steady::pair::receive*' --toggle-collect='*steady::pair::end_turn*' \
//!     PROGRAM count 400
//! ```
//!
//! The difference of two counts, divided by packets, excludes the handshake. The first command
//! counts the sender, the second the receiver; acknowledgements are in both. With quinn-proto
//! 0.11.19 and AES-NI (valgrind has no VAES), instructions per inner packet:
//!
//! | | sent | received |
//! | --- | --- | --- |
//! | super-packets, 1,400 bytes (`count 400` − `count 200`) | 8,670 | 9,530 |
//! | single, 1,400 bytes (`6400 single` − `3200 single`) | 9,030 | 9,630 |
//! | single, 64 bytes (`6400 small` − `3200 small`) | 1,590 | 1,760 |

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

mod counting;
mod edges;
mod idle;
mod load;
mod packets;
mod pair;
mod sites;

use load::Load;

fn main() {
    // `cargo bench` adds a flag of its own.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => {
            packets::table();
            idle::table(1000);
        }
        ["packets"] => packets::table(),
        ["idle", count] => idle::table(count.parse().expect("idle LINKS")),
        ["count", reads] => packets::send(Load::super_packets(), reads.parse().expect("count N")),
        ["count", reads, "single"] => {
            packets::send(Load::single_packets(), reads.parse().expect("count N single"));
        }
        ["count", reads, "small"] => {
            packets::send(Load::small_packets(), reads.parse().expect("count N small"));
        }
        _ => {
            eprintln!("nothing, or: packets | idle LINKS | count READS [single | small]");
            std::process::exit(2);
        }
    }
}

//! Hosts as people have them: other firewalls, routes, daemons and mistakes beside an edge. In each of these
//! faults the programs say what is wrong, and nothing leaves in the clear.

mod addresses;
mod clock;
mod devices;
mod firewall;
mod forwarding;
mod identity;
mod links;
mod routing;
mod start;
mod store;
#[allow(dead_code, reason = "others use it soon")]
mod support;
mod truth;

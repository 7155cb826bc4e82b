//! The system around the core: TUN, socket, netlink, kernel settings, and the loop that connects them.
//!
//! Routes: [`reconcile`] says what should be in the kernel's table (pure), `routes/keeper` compares and
//! corrects, [`netlink`] writes. [`firewall`] holds whatever the routes are.

pub mod backoff;
pub mod command;
pub mod conntrack;
pub mod culprit;
pub mod driver;
pub mod firewall;
pub mod netlink;
pub mod networks;
pub mod owner;
pub mod probe;
pub mod reconcile;
pub mod routes;
pub mod rules;
pub mod socket;
pub mod sysctl;
pub mod tun;

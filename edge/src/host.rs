//! The system around the core: TUN, socket, netlink, kernel settings, and the loop that connects them.

pub mod driver;
pub mod netlink;
pub mod reconcile;
pub mod routes;
pub mod snat;
pub mod socket;
pub mod sysctl;
pub mod tun;

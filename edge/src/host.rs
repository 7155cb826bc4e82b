//! The system around the core: TUN, socket, netlink, kernel settings, and the loop that connects them.
//!
//! Routes: [`reconcile`] says what should be in the kernel's table (pure), `routes/keeper` compares and
//! corrects, [`netlink`] writes.

pub mod conntrack;
pub mod driver;
pub mod netlink;
pub mod ownership;
pub mod probe;
pub mod reconcile;
pub(crate) mod router_advertisements;
pub mod routes;
pub mod snat;
pub mod socket;
pub mod sysctl;
pub mod tun;

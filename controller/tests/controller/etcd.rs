//! The store in a real etcd: what every store must do, and what etcd does to one.
//!
//! `etcd` and `etcdctl` are Debian's packages etcd-server and etcd-client. Without them these tests fail.

mod access;
pub(crate) mod cluster;
mod faults;
mod mesh;
mod program;
mod suite;

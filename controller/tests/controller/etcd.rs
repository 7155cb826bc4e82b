//! The store in a real etcd.
//!
//! `etcd` and `etcdctl` are in Debian's packages etcd-server and etcd-client. Without them these tests fail.

mod access;
mod faults;
mod following;
mod program;
mod suite;

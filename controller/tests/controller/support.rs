//! What the tests share.

pub(crate) mod admin;
pub(crate) mod calls;
pub(crate) mod controller;
pub(crate) mod credentials;
pub(crate) mod edge;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
pub(crate) mod mesh;
pub(crate) mod program;
pub(crate) mod wait;
pub(crate) mod writes;

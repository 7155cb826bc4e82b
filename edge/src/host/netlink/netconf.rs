//! Notifications of changed settings, such as forwarding: rtnetlink's crate does not know their messages.

use std::{io, sync::Arc};

use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use rustix::io::Errno;
use tokio::task::JoinSet;
use tracing::debug;

use super::{Affected, NetlinkError, Notifications};

/// `RTNLGRP_IPV4_NETCONF` and `RTNLGRP_IPV6_NETCONF`, as bits.
const GROUPS: u32 = 1 << 23 | 1 << 24;

/// Only that something has changed counts: the settings are read from `/proc/sys`.
pub(super) fn watch(
    notifications: Arc<Notifications>,
    tasks: &mut JoinSet<()>,
) -> Result<(), NetlinkError> {
    let socket = open().map_err(NetlinkError::Open)?;
    tasks.spawn(async move {
        loop {
            // Also after lost notifications (ENOBUFS).
            match socket.recv_from_full().await {
                Err(error) if Errno::from_io_error(&error) != Some(Errno::NOBUFS) => {
                    return debug!(%error, "settings are not watched");
                }
                _ => notifications.add(Affected::SETTINGS),
            }
        }
    });
    Ok(())
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
    Ok(socket)
}

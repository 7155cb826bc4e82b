//! The crate's only unsafe code: what a child does between fork and exec, and packet sockets.

#![expect(unsafe_code, reason = "system calls that nothing safe wraps")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Makes `command` start in `netns`, without descriptors that this process was itself given, and, if
/// `dies_with_parent`, get SIGKILL when the thread that started it ends.
pub(crate) fn start_in(command: &mut Command, netns: Arc<OwnedFd>, dies_with_parent: bool) {
    // SAFETY: the closure runs between fork and exec; it makes system calls on values that
    // existed before the fork, none of which allocates or takes a lock.
    unsafe {
        command.pre_exec(move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            // What outlives us must not hold a caller's lock or pipe. Older kernels lack the call;
            // then it does.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if dies_with_parent {
                set_parent_process_death_signal(Some(Signal::KILL))?;
            }
            Ok(())
        });
    }
}

/// Binds a packet socket to an interface, for all protocols in both directions (packet(7)).
pub(crate) fn bind_to_interface(socket: &impl AsRawFd, index: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data, for which all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.try_into().map_err(io::Error::other)?;
    // SAFETY: the pointer is to a sockaddr_ll of that size, which outlives the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many packets a packet socket had no room for since this was last asked (`PACKET_STATISTICS`,
/// packet(7)).
pub(crate) fn packets_dropped(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: both pointers are to values of the right type, which outlive the call; `length` is
    // the first one's size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(statistics.tp_drops) } else { Err(io::Error::last_os_error()) }
}

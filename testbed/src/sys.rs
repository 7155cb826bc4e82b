//! All unsafe code of the crate: what a child does between fork and exec, packet sockets, and
//! batches of UDP packets.

#![expect(unsafe_code, reason = "system calls that nothing safe wraps")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Makes `command` start in `netns` without inheriting descriptors. With `dies_with_parent` it gets
/// SIGKILL when the thread that started it ends.
pub(crate) fn start_in(command: &mut Command, netns: Arc<OwnedFd>, dies_with_parent: bool) {
    // SAFETY: the closure runs between fork and exec; it makes system calls on values that
    // existed before the fork, none of which allocates or takes a lock.
    unsafe {
        command.pre_exec(move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            // A program that outlives this process must not hold locks or pipes of its caller.
            // Kernels before 5.11 refuse the flag; then it may.
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

/// Number of packets that a packet socket has dropped since the last call (`PACKET_STATISTICS`,
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

/// Sends `payload` `count` times on a connected socket, each in its own packet, by one `sendmmsg`,
/// and returns the number of packets sent.
pub(crate) fn send_copies(
    socket: &impl AsRawFd,
    payload: &[u8],
    count: usize,
) -> io::Result<usize> {
    let mut slice =
        libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let mut messages: Vec<libc::mmsghdr> = (0..count).map(|_| message(&mut slice)).collect();
    // SAFETY: the messages and what they point to outlive the call, which only reads the payload.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as u32, 0)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives up to `N` datagrams by one `recvmmsg`, discards them, and returns their number. Waits
/// for the first one until the socket's timeout.
pub(crate) fn receive_and_discard<const N: usize>(socket: &impl AsRawFd) -> io::Result<usize> {
    // One small buffer for all, as their content is not used.
    let mut scrap = [0_u8; 16];
    let mut slice = libc::iovec { iov_base: scrap.as_mut_ptr().cast(), iov_len: scrap.len() };
    let mut messages: [libc::mmsghdr; N] = std::array::from_fn(|_| message(&mut slice));
    // SAFETY: the messages and what they point to outlive the call. Several of them share one
    // buffer, which the kernel writes one after the other.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            N as u32,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

fn message(slice: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data, for which all zeros is a valid value: no address, no control
    // data.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = slice;
    message.msg_hdr.msg_iovlen = 1;
    message
}

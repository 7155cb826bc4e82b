//! The system calls that nothing safe covers: the TUN's ioctls, the clock's state, a socket's queue,
//! and memory for recvmmsg(2).

#![expect(
    unsafe_code,
    reason = "ioctl(2), getsockopt(2), adjtimex(2), taking over a descriptor, and receiving into memory without \
              zeroing it each time have no safe form"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

use bytes::BytesMut;

/// `TUNSETOFFLOAD`, linux/if_tun.h: `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
/// `TUNSETVNETHDRSZ`, linux/if_tun.h: `_IOW('T', 216, int)`.
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// Sets what the reader and writer of a TUN take off the kernel's hands: `TUN_F_*` of linux/if_tun.h.
///
/// # Errors
/// `EINVAL` for a flag that the kernel doesn't know.
pub(crate) fn set_tun_offload(tun: impl AsFd, flags: u32) -> io::Result<()> {
    // SAFETY: this request takes its argument by value and touches no memory of ours.
    let result = unsafe {
        libc::ioctl(tun.as_fd().as_raw_fd(), TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
    };
    check(result).map(drop)
}

/// Sets the length of the `virtio_net_hdr` in front of every packet.
///
/// # Errors
/// Those of the ioctl.
pub(crate) fn set_tun_header_len(tun: impl AsFd, len: i32) -> io::Result<()> {
    // SAFETY: the kernel reads one int through the pointer, which outlives the call.
    let result = unsafe {
        libc::ioctl(tun.as_fd().as_raw_fd(), TUNSETVNETHDRSZ as _, std::ptr::from_ref(&len))
    };
    check(result).map(drop)
}

/// The descriptor of what gives it up.
pub(crate) fn into_owned(owner: impl IntoRawFd) -> OwnedFd {
    // SAFETY: `into_raw_fd` hands over the ownership of an open descriptor.
    unsafe { OwnedFd::from_raw_fd(owner.into_raw_fd()) }
}

/// Gives `buf` the length `len` back, for the next recvmmsg(2), without zeroing what was zeroed when
/// it was made: if nobody holds a part of it any more. Says whether that was so.
///
/// `buf` must be what is left of a `BytesMut::zeroed(len)` that began at the address `origin`, after
/// any number of `split_to`.
pub(crate) fn whole_again(buf: &mut BytesMut, origin: usize, len: usize) -> bool {
    buf.clear();
    if !buf.try_reclaim(len) || buf.as_ptr().addr() != origin || buf.capacity() < len {
        return false;
    }
    // SAFETY: `buf` has held the allocation that begins at `origin` ever since, so that it is still
    // the one whose first `len` bytes were all initialised then. Bytes of it were overwritten since,
    // but never made uninitialised, and there is room for them.
    unsafe { buf.set_len(len) };
    true
}

/// What a socket's receive queue holds in bytes, with the kernel's own overhead, and the datagrams
/// lost because it was full (`SO_MEMINFO`: `SK_MEMINFO_RMEM_ALLOC` and `SK_MEMINFO_DROPS` of
/// linux/sock_diag.h).
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.12.
pub(crate) fn receive_queue(socket: impl AsFd) -> io::Result<(usize, u64)> {
    const RMEM_ALLOC: usize = 0;
    const DROPS: usize = 8;
    let mut values = [0_u32; DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, those of `values`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &mut len,
        )
    };
    check(result)?;
    Ok((values[RMEM_ALLOC] as usize, values[DROPS].into()))
}

/// Whether the kernel believes its clock to be synchronised (`STA_UNSYNC` of adjtimex(2)).
///
/// # Errors
/// `EPERM` or `ENOSYS` where a sandbox hides the call.
pub(crate) fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: all-zero is a valid `timex`, and `modes` 0 only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `timex` through the pointer, which outlives the call.
    let result = unsafe { libc::adjtimex(&mut state) };
    check(result)?;
    Ok(state.status & libc::STA_UNSYNC == 0)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_whole_again_once_its_parts_are_dropped() {
        let mut buf = BytesMut::zeroed(1000);
        let origin = buf.as_ptr().addr();
        for round in 0..10 {
            let mut first = buf.split_to(300);
            first.fill(round);
            let second = buf.split_to(200);
            assert!(!whole_again(&mut buf, origin, 1000));
            drop(first);
            assert!(!whole_again(&mut buf, origin, 1000));
            drop(second);
            assert!(whole_again(&mut buf, origin, 1000));
            assert_eq!((buf.len(), buf.as_ptr().addr(), buf[299]), (1000, origin, round));
        }
        assert!(!whole_again(&mut buf, origin + 1, 1000));
    }
}

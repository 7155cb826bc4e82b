//! The system calls that nothing safe covers: the TUN's ioctls and the clock's state.

#![expect(
    unsafe_code,
    reason = "ioctl(2), adjtimex(2) and taking over a descriptor have no safe form"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

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

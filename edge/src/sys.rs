//! System calls without a safe wrapper: the TUN's ioctls, the clock's state, a socket's drop counter,
//! and memory for recvmmsg(2).

#![expect(
    unsafe_code,
    reason = "ioctl(2), getsockopt(2), adjtimex(2), taking over a descriptor, and receiving into memory without \
              zeroing it each time have no safe form"
)]

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

use bytes::BytesMut;

/// `TUNSETOFFLOAD`, linux/if_tun.h: `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
/// `TUNSETVNETHDRSZ`, linux/if_tun.h: `_IOW('T', 216, int)`.
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// Sets the offloads that the program on the TUN can handle: `TUN_F_*` of linux/if_tun.h.
///
/// # Errors
/// `EINVAL` for a flag that the kernel does not know.
pub(crate) fn set_tun_offload(tun: impl AsFd, flags: u32) -> io::Result<()> {
    // SAFETY: this request takes its argument by value and accesses no memory of this process.
    let result = unsafe {
        libc::ioctl(tun.as_fd().as_raw_fd(), TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
    };
    check(result).map(drop)
}

/// Sets the length in bytes of the `virtio_net_hdr` in front of every packet.
pub(crate) fn set_tun_header_len(tun: impl AsFd, len: i32) -> io::Result<()> {
    // SAFETY: the kernel reads one int through the pointer, which outlives the call.
    let result = unsafe {
        libc::ioctl(tun.as_fd().as_raw_fd(), TUNSETVNETHDRSZ as _, std::ptr::from_ref(&len))
    };
    check(result).map(drop)
}

/// Takes over the descriptor of `owner`.
pub(crate) fn into_owned(owner: impl IntoRawFd) -> OwnedFd {
    // SAFETY: `into_raw_fd` hands over the ownership of an open descriptor.
    unsafe { OwnedFd::from_raw_fd(owner.into_raw_fd()) }
}

/// Memory that recvmmsg(2) writes to. It is zeroed once and not for each call.
pub(crate) struct ReceiveBuffer {
    bytes: BytesMut,
    /// The address of the allocation.
    origin: usize,
    len: usize,
}

impl ReceiveBuffer {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = BytesMut::zeroed(len);
        Self { origin: bytes.as_ptr().addr(), bytes, len }
    }

    /// All bytes: the same memory as before if no part of it is still held, and other memory if one is.
    pub(crate) fn whole(&mut self) -> &mut [u8] {
        if self.bytes.len() < self.len && !self.reclaim() {
            *self = Self::new(self.len);
        }
        &mut self.bytes
    }

    /// Splits off the first `len` bytes, or all that are left.
    pub(crate) fn take(&mut self, len: usize) -> BytesMut {
        self.bytes.split_to(len.min(self.bytes.len()))
    }

    fn reclaim(&mut self) -> bool {
        let Self { bytes, origin, len } = self;
        bytes.clear();
        if !bytes.try_reclaim(*len) || bytes.as_ptr().addr() != *origin || bytes.capacity() < *len {
            return false;
        }
        // SAFETY: `bytes` has held the allocation that starts at `origin` since `new`, where its first
        // `len` bytes were all initialised. They may have been overwritten since, but they were never
        // made uninitialised, and the capacity was checked above.
        unsafe { bytes.set_len(*len) };
        true
    }
}

impl Deref for ReceiveBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The number of datagrams that a socket has dropped because its receive queue was full (`SO_MEMINFO`:
/// `SK_MEMINFO_DROPS` of linux/sock_diag.h).
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.12.
pub(crate) fn receive_overflow(socket: impl AsFd) -> io::Result<u64> {
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
    Ok(values[DROPS].into())
}

/// Whether the kernel considers its clock synchronised (`STA_UNSYNC` of adjtimex(2)).
///
/// # Errors
/// `EPERM` or `ENOSYS` where a sandbox blocks the call.
pub(crate) fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: all zeros is a valid `timex`, and `modes` 0 only reads.
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
    fn a_buffer_uses_its_memory_again_once_its_parts_are_dropped() {
        let mut buffer = ReceiveBuffer::new(1000);
        let origin = buffer.whole().as_ptr();
        for round in 0..10 {
            let mut first = buffer.take(300);
            first.fill(round);
            drop((first, buffer.take(200)));
            assert_eq!((buffer.whole().len(), buffer.as_ptr(), buffer[299]), (1000, origin, round));
        }
    }

    #[test]
    fn a_buffer_gets_other_memory_while_a_part_of_it_is_held() {
        let mut buffer = ReceiveBuffer::new(1000);
        buffer.whole().fill(7);
        let held = buffer.take(10);
        buffer.whole().fill(8);
        assert_eq!((buffer.len(), &held[..]), (1000, &[7; 10][..]));
        assert_eq!(buffer.take(5000).len(), 1000);
    }
}

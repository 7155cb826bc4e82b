//! The TUN device: persistent, with `virtio_net_hdr` and the kernel's segmentation offloads.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::io::Errno;
use tun::{AbstractDevice, Configuration};

use super::sysctl;
use crate::sys;

/// Packets that the kernel queues while the loop is busy: 4096 are about 15 ms of small packets. With the
/// default of 500, some are lost at 250,000 a second.
pub const QUEUE_LEN: u32 = 4096;

/// The alias that marks the devices of this program (`ip link set … alias`).
pub const ALIAS: &str = "cframe-edge";
/// The group of the edge's devices (`ip link show group`): a packet that leaves by one of another instance
/// does not leave in the clear.
pub const DEVICE_GROUP: u32 = 0x00cf_0000;

/// Length in bytes of `virtio_net_hdr` without `num_buffers` (linux/virtio_net.h).
pub const HEADER_LEN: usize = 10;

// TUN_F_* of linux/if_tun.h.
const CSUM: u32 = 0x01;
const TSO4: u32 = 0x02;
const TSO6: u32 = 0x04;
const TSO_ECN: u32 = 0x08;
const USO4: u32 = 0x20;
const USO6: u32 = 0x40;

/// An open TUN device. When this is dropped, the device stays in the kernel with its routes.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    /// The kernel's number of the device.
    pub index: u32,
    /// Whether UDP super-packets can be read from and written to it (Linux 6.2).
    pub udp_offload: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TunError {
    #[error("the device {0} is in use: another cframe-edge runs as this instance (see --instance)")]
    Busy(String),
    #[error(
        "not allowed to create the device {0}: CAP_NET_ADMIN and read-write access to /dev/net/tun are needed"
    )]
    NotAllowed(String),
    #[error("the kernel has no TUN devices (/dev/net/tun is missing): modprobe tun")]
    NoDevices,
    #[error("device {name}: {what}")]
    Failed { name: String, what: &'static str, source: io::Error },
}

impl Tun {
    /// Creates the device, or takes over the one that an earlier process has left, and brings it up.
    pub fn open(name: &str, mtu: u16) -> Result<Self, TunError> {
        let failed = |what| move |source| TunError::Failed { name: name.to_owned(), what, source };
        let tun = |what| move |error: tun::Error| failed(what)(into_io(error));

        let mut config = Configuration::default();
        config.tun_name(name).platform_config(|platform| {
            platform.vnet_hdr(true).ensure_root_privileges(false);
        });
        let mut device = tun::create(&config).map_err(|error| {
            let error = into_io(error);
            match Errno::from_io_error(&error) {
                Some(Errno::BUSY) => TunError::Busy(name.to_owned()),
                Some(Errno::PERM | Errno::ACCESS) => TunError::NotAllowed(name.to_owned()),
                Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => TunError::NoDevices,
                _ => failed("creating it")(error),
            }
        })?;
        device.persist().map_err(tun("making it persistent"))?;
        device.set_mtu(mtu).map_err(tun("setting its MTU"))?;
        // Before it comes up, so that the kernel sends no router solicitations into the tunnel.
        sysctl::prepare_device(name);
        device.enabled(true).map_err(tun("bringing it up"))?;
        let index = device.tun_index().map_err(tun("reading its index"))?;

        let fd = sys::into_owned(device);
        rustix::io::ioctl_fionbio(&fd, true)
            .map_err(io::Error::from)
            .map_err(failed("O_NONBLOCK"))?;
        sys::set_tun_header_len(&fd, HEADER_LEN as i32).map_err(failed("TUNSETVNETHDRSZ"))?;
        let udp_offload = offload(&fd).map_err(failed("TUNSETOFFLOAD"))?;
        Ok(Self { fd, index: index.unsigned_abs(), udp_offload })
    }

    /// Reads one packet or super-packet with its header; `None` if none is waiting.
    ///
    /// # Errors
    /// See [`is_gone`].
    pub fn read(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.fd, buf) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes one packet or super-packet, its header first.
    ///
    /// # Errors
    /// See [`is_gone`]; others concern only this packet.
    pub fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.fd, slices)?;
        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an error of [`Tun::read`] means that another program has removed the device.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADFD | Errno::NODEV | Errno::NXIO | Errno::BADF)
    )
}

/// Switches on all offloads that the kernel has, and returns whether UDP's is among them.
fn offload(fd: &OwnedFd) -> io::Result<bool> {
    let tcp = CSUM | TSO4 | TSO6 | TSO_ECN;
    match sys::set_tun_offload(fd, tcp | USO4 | USO6) {
        Ok(()) => Ok(true),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            sys::set_tun_offload(fd, tcp).map(|()| false)
        }
        Err(error) => Err(error),
    }
}

fn into_io(error: tun::Error) -> io::Error {
    error.into()
}

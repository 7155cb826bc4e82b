//! Settings of the network stack in `/proc/sys/net`: forwarding, and those of the TUN.

use std::{fs, io, path::PathBuf};

use tracing::{debug, info, warn};

/// Reads `/proc/sys/net/<key>`.
///
/// # Errors
/// Those of the file: `NotFound` where the kernel has no such setting.
pub fn read(key: &str) -> io::Result<String> {
    fs::read_to_string(path(key)).map(|value| value.trim().to_owned())
}

/// The number in `/proc/sys/net/<key>`; `None` if there is no file or it is not a number.
pub fn number(key: &str) -> Option<i64> {
    read(key).ok()?.parse().ok()
}

/// Sets up a TUN device before it comes up. Settings that the kernel lacks are skipped.
///
/// The reverse path filter is loose on this device only: the return path to a source may not be through
/// the tunnel (asymmetric sites). The device gets no link-local address, because with one the kernel
/// would send router solicitations into the tunnel.
pub(crate) fn prepare_device(name: &str) {
    for (key, value) in [
        (format!("ipv4/conf/{name}/rp_filter"), "2"),
        (format!("ipv6/conf/{name}/addr_gen_mode"), "1"),
        (format!("ipv6/conf/{name}/accept_ra"), "0"),
        (format!("ipv6/conf/{name}/router_solicitations"), "0"),
    ] {
        if let Err(error) = write(&key, value) {
            debug!(%key, %error, "setting not applied");
        }
    }
}

/// Keeps the kernel from sending anything of its own through a device that only measures.
pub(crate) fn silence_device(name: &str) {
    let key = format!("ipv6/conf/{name}/disable_ipv6");
    if let Err(error) = write(&key, "1") {
        debug!(%key, %error, "setting not applied");
    }
}

/// Switches IPv4 forwarding on if it is off.
pub(crate) fn forward_v4() {
    switch_on("ipv4/ip_forward");
}

fn switch_on(key: &str) {
    match read(key).as_deref() {
        Ok("0") => match write(key, "1") {
            Ok(()) => info!(%key, "forwarding switched on"),
            Err(error) => warn!(%key, %error, "forwarding is off: set it to 1"),
        },
        Ok(_) => {}
        Err(error) => debug!(%key, %error, "no such setting"),
    }
}

pub(crate) fn write(key: &str, value: &str) -> io::Result<()> {
    match read(key)?.as_str() == value {
        true => Ok(()),
        false => fs::write(path(key), value),
    }
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

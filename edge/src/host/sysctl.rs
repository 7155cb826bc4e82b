//! Settings of the network stack in `/proc/sys/net`: forwarding, and those of the TUN.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use tracing::{debug, warn};

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
        // Off by default on hosts without IPv6, which the device needs none of.
        (format!("ipv6/conf/{name}/disable_ipv6"), "0"),
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

/// Settings as they were before this program has changed them, in a file, so that `down` can put them
/// back. Only what a host loses something by is in it: with IPv6 forwarding, an advertised default route.
#[derive(Debug)]
pub(crate) struct Saved {
    path: PathBuf,
}

impl Saved {
    pub(crate) fn new(data: PathBuf) -> Self {
        Self { path: data.join("settings.json") }
    }

    /// Saves the value of a setting, unless one is saved.
    pub(crate) fn save(&self, key: &str) {
        let mut saved = self.load();
        let Ok(value) = read(key) else { return };
        if saved.contains_key(key) {
            return;
        }
        saved.insert(key.to_owned(), value);
        let text = serde_json::to_string_pretty(&saved).unwrap_or_default();
        if let Err(error) = fs::write(&self.path, text) {
            warn!(path = %self.path.display(), %error, "`down` will not put {key} back");
        }
    }

    /// Puts everything back that still is as this program has set it, and returns the keys.
    pub(crate) fn restore(&self) -> Vec<String> {
        let mut restored = Vec::new();
        // In the order of names, forwarding comes first: then the advertisements are accepted again.
        for (key, value) in self.load() {
            let ours = if key.ends_with("accept_ra") { "2" } else { "1" };
            let is_ours = read(&key).is_ok_and(|now| now == ours && now != value);
            if is_ours && write(&key, &value).is_ok() {
                restored.push(key);
            }
        }
        let _ = fs::remove_file(&self.path);
        restored
    }

    fn load(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
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

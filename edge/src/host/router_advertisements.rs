//! IPv6 forwarding and router advertisements.
//!
//! A forwarding host ignores router advertisements, and with them its default route in most clouds, unless
//! `accept_ra` is 2 (linux Documentation/networking/ip-sysctl.rst). It is raised on the devices whose default
//! route comes from an advertisement, and on no others: there a router of the LAN could take over the
//! gateway's default route. What was changed is saved, and undone by `cframe-edge down`.

use std::{collections::BTreeMap, io, path::Path};

use cframe_pki::files;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{
    netlink::{Kernel, NetlinkError},
    sysctl,
};

const FORWARDING: &str = "ipv6/conf/all/forwarding";
/// The name in the data directory.
const FILE: &str = "ipv6-forwarding.json";

/// What [`switch_on`] has changed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    /// `accept_ra` of devices, as it was before.
    accept_ra: BTreeMap<String, String>,
}

/// Switches IPv6 forwarding on, if it is off, in a way that keeps the host's default routes. `data` is the
/// data directory.
pub(crate) async fn switch_on(kernel: &Kernel, data: &Path) -> Result<(), NetlinkError> {
    if sysctl::number(FORWARDING) != Some(0) {
        return Ok(());
    }
    let mut changed = Changed::default();
    for device in kernel.advertised_defaults().await? {
        let key = format!("ipv6/conf/{device}/accept_ra");
        if sysctl::number(&key) == Some(1) && set(&key, "2") {
            info!(%device, "router advertisements stay accepted beside forwarding: accept_ra is 2");
            changed.accept_ra.insert(device, "1".to_owned());
        }
    }
    save(&data.join(FILE), &changed);
    if set(FORWARDING, "1") {
        info!("IPv6 forwarding switched on");
    }
    Ok(())
}

/// Undoes [`switch_on`], if it has switched forwarding on, and returns what it set back.
pub(crate) fn restore(data: &Path) -> Vec<String> {
    let path = data.join(FILE);
    let text = files::read_public(&path).ok();
    let Some(changed) = text.and_then(|text| serde_json::from_slice::<Changed>(&text).ok()) else {
        return Vec::new();
    };
    let mut restored = Vec::new();
    if sysctl::number(FORWARDING) == Some(1) && set(FORWARDING, "0") {
        restored.push(format!("net/{FORWARDING}=0"));
    }
    for (device, before) in changed.accept_ra {
        let key = format!("ipv6/conf/{device}/accept_ra");
        if sysctl::number(&key) == Some(2) && set(&key, &before) {
            restored.push(format!("net/{key}={before}"));
        }
    }
    let _ = std::fs::remove_file(path);
    restored
}

fn set(key: &str, value: &str) -> bool {
    let result = sysctl::write(key, value);
    if let Err(error) = &result
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(key, value, %error, "setting not changed");
    }
    result.is_ok()
}

fn save(path: &Path, changed: &Changed) {
    let text = serde_json::to_vec(changed).unwrap_or_default();
    if let Err(error) = files::write_public(path, &text) {
        warn!(%error, "cframe-edge down will not undo the change of IPv6 forwarding");
    }
}

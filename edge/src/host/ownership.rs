//! Whose device has an instance's name: only one that this program has made is ever changed or deleted.

use super::netlink::{Device, Kernel, NetlinkError};
use crate::instance::Instance;

/// The device with an instance's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// There is none.
    Nobody,
    Ours(Device),
    /// Another program has made it.
    Other(Device),
}

/// Looks the instance's device up.
pub async fn owner(kernel: &Kernel, instance: &Instance) -> Result<Owner, NetlinkError> {
    let devices = kernel.devices().await?;
    let Some(device) = devices.into_iter().find(|device| device.name == instance.name()) else {
        return Ok(Owner::Nobody);
    };
    // Versions before the mark made a TUN without it, and a rule for its table.
    let ours = device.is_marked()
        || (device.is_tun()
            && device.alias.is_none()
            && kernel.has_rules(instance.table()).await?);
    Ok(if ours { Owner::Ours(device) } else { Owner::Other(device) })
}

/// Why an instance cannot have the name of this device.
pub fn refusal(device: &Device) -> String {
    let kind = device.kind.as_deref().unwrap_or("hardware");
    format!(
        "{} is a device of another program ({kind}), and is left alone: use another --instance",
        device.name
    )
}

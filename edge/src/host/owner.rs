//! Whether a device is this program's: only its own are taken over, changed or removed.

use super::{
    netlink::{Kernel, NetlinkError},
    tun::ALIAS,
};
use crate::instance::Instance;

#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error(
        "{0} is a device of this host and not of cframe-edge: choose another --instance, the edges here are \
         in /var/lib/cframe"
    )]
    Foreign(String),
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
}

/// Fails if a device has the instance's name and is not its TUN.
pub async fn check_owner(instance: &Instance) -> Result<(), OwnerError> {
    let kernel = Kernel::open()?;
    device(&kernel, instance).await.map(drop)
}

/// The number of the instance's device, if there is one.
pub async fn device(kernel: &Kernel, instance: &Instance) -> Result<Option<u32>, OwnerError> {
    let devices = kernel.devices().await?;
    let Some(device) = devices.iter().find(|device| device.name == instance.name()) else {
        return Ok(None);
    };
    let marked = device.alias.as_deref() == Some(ALIAS);
    // Earlier versions set no alias. Their rules and routes are as durable as their devices.
    let is_ours = device.is_tun && (marked || has_state(kernel, instance).await?);
    match is_ours {
        true => Ok(Some(device.index)),
        false => Err(OwnerError::Foreign(instance.name().to_owned())),
    }
}

async fn has_state(kernel: &Kernel, instance: &Instance) -> Result<bool, NetlinkError> {
    let table = instance.table();
    let rules = kernel.rules().await?;
    let is_ours = rules.iter().any(|rule| rule.action == super::rules::Action::Table(table));
    Ok(is_ours || !kernel.table(table).await?.is_empty())
}

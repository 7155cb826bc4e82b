//! The TUN device, as another program may change it: MTU, name, up or down, removed.

use tokio::time::Instant;
use tracing::warn;

use super::Keeper;
use crate::host::{
    networks::{Change, Link},
    routes::{HostEvent, facts::WrongMtu},
    tun::QUEUE_LEN,
};

#[derive(Debug, Default)]
pub(super) struct TunDevice {
    /// The kernel's number of the device; `None` while there is none.
    pub(super) index: Option<u32>,
    /// As it should be, in bytes.
    mtu: u16,
    /// As it is, while that is wrong.
    wrong_mtu: Option<u32>,
    is_down: bool,
}

impl Keeper {
    pub(super) async fn use_device(&mut self, index: Option<u32>, mtu: u16) {
        self.device = TunDevice { index, mtu, ..TunDevice::default() };
        self.intent.set_device(index);
        self.networks.set_tun(index);
        let set_up = match index {
            Some(index) => self.kernel.set_device(index, QUEUE_LEN, mtu).await,
            None => Ok(()),
        };
        self.update_local();
        self.reconcile().await;
        if self.armed {
            self.restart_ways().await;
        }
        self.forward();
        if let Err(error) = set_up {
            self.record_refusal(&error);
        }
    }

    /// Looks for changes of the device in a notification.
    pub(super) async fn see_device(&mut self, change: &Change) {
        if let Change::Link(link) = change
            && Some(link.index) == self.device.index
        {
            self.judge_device(link).await;
        }
        if let Change::NoLink(index) = change
            && Some(*index) == self.device.index
        {
            self.send(HostEvent::DeviceGone(*index));
        }
    }

    /// After notifications may have been lost.
    pub(super) async fn check_device(&mut self) {
        let Some(index) = self.device.index else { return };
        match self.networks.link(index).cloned() {
            Some(link) => self.judge_device(&link).await,
            None => self.send(HostEvent::DeviceGone(index)),
        }
    }

    async fn judge_device(&mut self, link: &Link) {
        if link.name != self.instance.name() {
            warn!(
                device = self.instance.name(),
                name = link.name,
                "the device was renamed; it is removed and made again"
            );
            if let Err(error) = self.kernel.delete_device(link.index).await {
                self.record_refusal(&error);
            }
            return self.send(HostEvent::DeviceGone(link.index));
        }
        let mtu = u32::from(self.device.mtu);
        self.device.wrong_mtu = (link.mtu != mtu && link.mtu != 0).then_some(link.mtu);
        let was_down = std::mem::replace(&mut self.device.is_down, !link.up);
        if self.device.wrong_mtu.is_some() || self.device.is_down {
            self.repairs.device.record(None, Instant::now());
        } else if was_down {
            // The kernel has removed the routes to it without a notification.
            self.repairs.whole = true;
            self.repairs.routes.record_once(Instant::now());
        }
    }

    /// Puts MTU and state of the device back.
    pub(super) async fn repair_device(&mut self) {
        let Some(index) = self.device.index else { return };
        let (is, should_be) = (self.device.wrong_mtu, self.device.mtu);
        if self.repairs.device.is_worth_a_line() {
            let device = self.instance.name();
            match is {
                Some(is) => warn!(device, is, should_be, "another program set the MTU; put back"),
                None => warn!(device, "the device was set down; bringing it up"),
            }
        }
        match self.kernel.set_device(index, QUEUE_LEN, should_be).await {
            // The notification of this change ends `wrong_mtu`.
            Ok(()) => self.repairs.whole = true,
            Err(error) => self.record_refusal(&error),
        }
        self.repair_table().await;
    }

    pub(super) fn wrong_mtu(&self) -> Option<WrongMtu> {
        self.device.wrong_mtu.map(|is| WrongMtu {
            device: self.instance.name().to_owned(),
            is,
            should_be: self.device.mtu,
            by: self.repairs.device.culprit(),
        })
    }
}

//! The TUN device: removed and made again while the process runs.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::{
    host::{
        driver::Driver,
        routes::Routes,
        tun::{Tun, TunError},
    },
    judge::own::DeviceFacts,
    status::DeviceStatus,
};

const REOPEN_DELAY: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) struct Device {
    name: String,
    /// The kernel's number of the device; `None` while there is none.
    pub(super) index: Option<u32>,
    /// When to try again, while there is none.
    pub(super) reopen_at: Option<Instant>,
    /// Why it cannot be made.
    error: Option<String>,
}

impl Device {
    pub(super) fn open(name: &str, mtu: u16) -> Result<(Self, Tun), TunError> {
        let tun = Tun::open(name, mtu)?;
        Ok((
            Self { name: name.to_owned(), index: Some(tun.index), reopen_at: None, error: None },
            tun,
        ))
    }

    pub(super) async fn handle_removal(&mut self, mtu: u16, driver: &Driver, routes: &Routes) {
        if self.reopen_at.is_none() {
            warn!(device = self.name, "the device was removed; making it again");
            driver.set_tun(None);
            self.index = None;
            self.reopen(mtu, driver, routes).await;
        }
    }

    /// Makes the device again, with its routes. After a failure [`reopen_at`](Self::reopen_at) has
    /// the time of the next attempt.
    pub(super) async fn reopen(&mut self, mtu: u16, driver: &Driver, routes: &Routes) {
        match Tun::open(&self.name, mtu) {
            Ok(tun) => {
                self.index = Some(tun.index);
                (self.reopen_at, self.error) = (None, None);
                driver.set_tun(Some(tun));
                routes.set_device(self.index, mtu).await;
                info!(device = self.name, "the device was made again");
            }
            Err(error) => {
                self.error = Some(format!("{:#}", anyhow::Error::new(error)));
                if self.reopen_at.is_none() {
                    routes.set_device(None, mtu).await;
                }
                self.reopen_at = Some(Instant::now() + REOPEN_DELAY);
            }
        }
    }

    /// `present` as the driver has it.
    pub(super) fn facts(&self, present: bool) -> DeviceFacts {
        DeviceFacts { name: self.name.clone(), present, error: self.error.clone() }
    }

    /// `present` as the driver has it: it may know of a removal before this part does.
    pub(super) fn status(&self, mtu: u16, present: bool) -> DeviceStatus {
        DeviceStatus {
            name: self.name.clone(),
            index: self.index.unwrap_or_default(),
            mtu,
            present,
        }
    }
}

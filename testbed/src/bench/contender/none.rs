use std::net::IpAddr;

use anyhow::Result;

use super::{Contender, Gateways};
use crate::process::Process;

/// No tunnel: flows use the public addresses.
pub(super) struct None {
    addresses: (IpAddr, IpAddr),
    mss: Option<u32>,
}

impl None {
    pub(super) fn new(gateways: &Gateways, mss: Option<u32>) -> Self {
        Self { addresses: (gateways.left.ip(), gateways.right.ip()), mss }
    }
}

impl Contender for None {
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        self.addresses
    }

    fn processes(&self) -> Vec<&Process> {
        Vec::new()
    }

    fn mss(&self) -> Option<u32> {
        self.mss
    }
}

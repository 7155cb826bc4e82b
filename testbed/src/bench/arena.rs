//! The lab of the benchmarks: two gateways with a veth pair between them and a router beside it, and what lies in
//! their way at the moment.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};

use super::scenario::Condition;
use crate::{Host, Lab, PublicHost, Site, WanPath};

/// The interfaces of the veth pair.
const DIRECT: &str = "direct";

/// The emulated WAN's bottleneck in bit/s: what the emulator, a tunnel and a flow can do together on two cores, so
/// that the path is the limit and not the machine.
const WAN_RATE: u64 = 500_000_000;

/// The two sites and what they need. Every tunnel ends on their edge hosts, and so does every flow: what is behind the
/// gateways would only add to the noise.
#[derive(Clone, Debug)]
pub(super) struct Arena {
    pub(super) controller: PublicHost,
    pub(super) left: Site,
    pub(super) right: Site,
}

/// A gateway with its address on the underlay.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) host: Host,
    pub(super) public: Ipv4Addr,
}

impl Arena {
    pub(super) fn build(lab: &mut Lab) -> Result<Self> {
        let controller = lab.host("controller").public("192.0.2.7/24").build()?;
        let left = lab.site("left").public("203.0.113.7/24").inner("10.81.0.0/24").build()?;
        let right = lab.site("right").public("198.51.100.7/24").inner("10.82.0.0/24").build()?;
        left.edge().ip(&format!(
            "link add {DIRECT} type veth peer name {DIRECT} netns {}\nlink set {DIRECT} up",
            right.edge().netns().name()
        ))?;
        right.edge().ip(&format!("link set {DIRECT} up"))?;
        Ok(Self { controller, left, right })
    }

    /// The gateway from which flows start.
    pub(super) fn left(&self) -> Result<End> {
        end(&self.left)
    }

    /// The one that they go to.
    pub(super) fn right(&self) -> Result<End> {
        end(&self.right)
    }

    /// Puts something between the gateways, in place of what was there. Random loss begins anew with `seed`: the same
    /// packets of two flows are lost, so that their difference is not one of luck.
    pub(super) fn set(&self, condition: Condition, seed: u32) -> Result<()> {
        match condition {
            Condition::Veth | Condition::NoSegmentation => {
                let offloads = condition == Condition::Veth;
                for site in [&self.left, &self.right] {
                    site.edge().netns().set_offloads(DIRECT, offloads)?;
                }
                self.direct(true)
            }
            Condition::Narrow => self.wan(&WanPath {
                delay: Duration::from_millis(10),
                rate: Some(200_000_000),
                queue: Duration::from_millis(50),
                ..WanPath::default()
            }),
            Condition::Wan { rtt_ms, loss_percent } => self.wan(&WanPath {
                delay: Duration::from_millis(rtt_ms.into()) / 2,
                seed: seed.into(),
                loss: loss_percent.into(),
                rate: Some(WAN_RATE),
                queue: Duration::from_millis(50),
                ..WanPath::default()
            }),
        }
    }

    /// Leads the way over the router and its emulator.
    fn wan(&self, path: &WanPath) -> Result<()> {
        self.direct(false)?;
        self.left.uplink().wan_to(self.right.uplink()).set(path)
    }

    /// Leads the way between the public addresses over the veth pair, or over the router. Tunnels keep their
    /// addresses.
    fn direct(&self, direct: bool) -> Result<()> {
        let (left, right) = (self.left()?, self.right()?);
        for (here, there) in [(&left, &right), (&right, &left)] {
            let verb = if direct { "replace" } else { "flush" };
            let way =
                if direct { format!(" dev {DIRECT} src {}", here.public) } else { String::new() };
            let exact = if direct { "" } else { "exact " };
            here.host.ip(&format!("route {verb} {exact}{}/32{way}", there.public))?;
        }
        Ok(())
    }
}

impl End {
    /// Its public address.
    pub(super) fn ip(&self) -> IpAddr {
        self.public.into()
    }
}

fn end(site: &Site) -> Result<End> {
    let public =
        site.uplink().v4().with_context(|| format!("{} has no IPv4 address", site.name()))?;
    Ok(End { host: site.edge().clone(), public })
}

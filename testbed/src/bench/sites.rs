//! The sites of the benchmarks: two gateways that are connected by a veth pair and by the lab's
//! router, and the condition of the path between them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};

use super::scenario::Condition;
use crate::host::Host;
use crate::lab::{Lab, PublicHost, Site};
use crate::wan::WanPath;

/// Name of both interfaces of the veth pair.
const DIRECT: &str = "direct";

/// Rate of the emulated WAN in bit/s. The emulator, a tunnel and a flow reach it together on two
/// cores, so that the path is the limit and not the machine.
const WAN_RATE: u64 = 500_000_000;

/// Tunnels and flows both end on the edge hosts of the two sites: hosts behind the gateways would
/// only add noise.
#[derive(Clone, Debug)]
pub(super) struct BenchSites {
    pub(super) controller: PublicHost,
    pub(super) left: Site,
    pub(super) right: Site,
}

/// A gateway with its address on the underlay network.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    pub(super) host: Host,
    pub(super) public: Ipv4Addr,
}

impl BenchSites {
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

    /// The gateway that flows come from.
    pub(super) fn left(&self) -> Result<Gateway> {
        gateway(&self.left)
    }

    /// The gateway that flows go to.
    pub(super) fn right(&self) -> Result<Gateway> {
        gateway(&self.right)
    }

    /// Sets the condition of the path between the gateways. Random loss restarts with `seed`, so that
    /// the same packets of each flow are lost.
    pub(super) fn set_condition(&self, condition: Condition, seed: u32) -> Result<()> {
        match condition {
            Condition::Veth | Condition::NoSegmentation => {
                let offloads = condition == Condition::Veth;
                for site in [&self.left, &self.right] {
                    site.edge().netns().set_offloads(DIRECT, offloads)?;
                }
                self.route_direct(true)
            }
            Condition::Narrow => self.set_wan(&WanPath {
                delay: Duration::from_millis(10),
                rate: Some(200_000_000),
                queue: Duration::from_millis(50),
                ..WanPath::default()
            }),
            Condition::Wan { rtt_ms, loss_percent } => self.set_wan(&WanPath {
                delay: Duration::from_millis(rtt_ms.into()) / 2,
                seed: seed.into(),
                loss: loss_percent.into(),
                rate: Some(WAN_RATE),
                queue: Duration::from_millis(50),
                ..WanPath::default()
            }),
        }
    }

    /// Routes packets through the router and its WAN emulator.
    fn set_wan(&self, path: &WanPath) -> Result<()> {
        self.route_direct(false)?;
        self.left.uplink().wan_to(self.right.uplink()).set(path)
    }

    /// Routes packets between the public addresses over the veth pair, or over the router. The
    /// addresses don't change.
    fn route_direct(&self, direct: bool) -> Result<()> {
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

impl Gateway {
    pub(super) fn ip(&self) -> IpAddr {
        self.public.into()
    }
}

fn gateway(site: &Site) -> Result<Gateway> {
    let public =
        site.uplink().v4().with_context(|| format!("{} has no IPv4 address", site.name()))?;
    Ok(Gateway { host: site.edge().clone(), public })
}

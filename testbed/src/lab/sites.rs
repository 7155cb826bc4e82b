use anyhow::Result;

use super::{Lab, Nat, PublicHost, Site};

/// The sites of the demo and of most tests: a controller's host and three sites.
#[derive(Clone, Debug)]
pub struct ThreeSites {
    /// 198.51.100.10 and 2001:db8:c::10.
    pub controller: PublicHost,
    /// 172.18.0.0/16, at 192.0.2.7 and 2001:db8:5::7.
    pub aliyun_sz: Site,
    /// 172.30.0.0/16, at 203.0.113.7 and 2001:db8:4::7.
    pub aws_hk: Site,
    /// 10.60.6.0/24 and fd00:60::/64, at 198.18.0.7 and 2001:db8:1::7.
    pub idc: Site,
}

impl ThreeSites {
    /// Adds them to `lab`, with `nat` in front of `aliyun-sz`.
    pub fn build(lab: &mut Lab, nat: Option<Nat>) -> Result<Self> {
        let controller = lab
            .host("controller")
            .public("198.51.100.10/24")
            .public("2001:db8:c::10/64")
            .build()?;
        let mut sz = lab.site("aliyun-sz").public("192.0.2.7/24").public("2001:db8:5::7/64");
        if let Some(nat) = nat {
            sz = sz.nat(nat);
        }
        let aliyun_sz = sz.inner("172.18.0.0/16").build()?;
        let aws_hk = lab
            .site("aws-hk")
            .public("203.0.113.7/24")
            .public("2001:db8:4::7/64")
            .inner("172.30.0.0/16")
            .build()?;
        let idc = lab
            .site("idc")
            .public("198.18.0.7/24")
            .public("2001:db8:1::7/64")
            .inner("10.60.6.0/24")
            .inner("fd00:60::/64")
            .build()?;
        Ok(Self { controller, aliyun_sz, aws_hk, idc })
    }

    pub fn sites(&self) -> [&Site; 3] {
        [&self.aliyun_sz, &self.aws_hk, &self.idc]
    }
}

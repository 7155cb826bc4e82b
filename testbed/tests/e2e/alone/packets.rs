//! Every kind and size of packet, over IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cframe_testbed::deployment::{Deployment, Edge};
use cframe_testbed::{Host, Lab, privilege};

use crate::lab::{MS, Share, TIMEOUT, alone, figure};
use crate::traffic::{echo, echoes, transfers};

/// Two edges whose sites have both families inside, linked over one of them. The fields are dropped in this order.
struct DualStackPair {
    east: Edge,
    west: Edge,
    deployment: Deployment,
    _lab: Lab,
    _share: Share,
}

impl DualStackPair {
    fn start(name: &str, endpoints: [&str; 2]) -> Self {
        let share = alone();
        privilege::ensure().unwrap();
        let mut lab = Lab::new(name).unwrap();
        let controller = lab
            .host("controller")
            .public("198.51.100.10/24")
            .public("2001:db8:c::10/64")
            .build()
            .unwrap();
        let east = lab.site("east").public("192.0.2.7/24").public("2001:db8:5::7/64");
        let east = east.inner("172.18.0.0/16").inner("fd00:18::/64").build().unwrap();
        let west = lab.site("west").public("203.0.113.7/24").public("2001:db8:4::7/64");
        let west = west.inner("172.30.0.0/16").inner("fd00:30::/64").build().unwrap();
        let deployment = Deployment::start(&lab, &controller).unwrap();
        deployment.ctl_ok(&["namespace", "add", "prod"]).unwrap();
        let east = deployment.edge(&east).endpoints(&endpoints[..1]).enrol().unwrap();
        let west = deployment.edge(&west).endpoints(&endpoints[1..]).enrol().unwrap();
        Self { east, west, deployment, _lab: lab, _share: share }
    }

    /// Changes the MTU of the running edges, restarts the link, and sends everything as soon as it is up.
    fn check_all_packets(&mut self, mtu: usize) {
        let set = ["namespace", "set", "prod", "--tun-mtu", &mtu.to_string()];
        self.deployment.ctl_ok(&set).unwrap();
        for edge in [&mut self.east, &mut self.west] {
            edge.wait_status("the MTU", TIMEOUT, |status| status["device"]["mtu"] == mtu).unwrap();
        }
        self.west.kill9().unwrap();
        self.west.start().unwrap();
        let (east, west) = (self.east.site().workload(), self.west.site().workload());
        let [v4, v6] = [IpAddr::from(west.v4().unwrap()), IpAddr::from(west.v6().unwrap())];
        let first = east.ping(v4).interval(2 * MS).start().unwrap();
        first.reply_after(self.west.process().started(), TIMEOUT).unwrap();
        drop(first);
        for to in [v4, v6] {
            every_size(east, to, mtu);
        }
        for to in [v4, v6] {
            let at = SocketAddr::new(to, 7007);
            let echo = echo(west, at);
            for size in [
                0,
                1,
                18,
                500,
                1200,
                mtu - 48,
                mtu - 28,
                mtu,
                1472,
                2000,
                4000,
                9000,
                20_000,
                60_000,
            ] {
                assert!(echoes(east, at, size), "UDP of {size} bytes to {to}, TUN MTU {mtu}");
            }
            drop(echo);
            assert!(transfers(east, west, SocketAddr::new(to, 0), 30_000_000), "TCP to {to}");
        }
        let back = SocketAddr::new(east.v4().unwrap().into(), 0);
        assert!(transfers(west, east, back, 5_000_000), "TCP back");
        for edge in [&self.east, &self.west] {
            let status = edge.status().unwrap();
            assert_eq!(status["device"]["mtu"], mtu, "{status:#}");
        }
    }
}

/// Sends pings of many sizes in parallel, which no kernel may fragment.
fn every_size(from: &Host, to: IpAddr, mtu: usize) {
    let mut sizes: Vec<usize> = (64..mtu).step_by(37).collect();
    sizes.extend([mtu - 2, mtu - 1, mtu]);
    let pingers: Vec<_> = sizes
        .iter()
        .map(|size| from.ping(to).packet_size(*size).dont_fragment().count(2).start().unwrap())
        .collect();
    let mut worst = Duration::ZERO;
    for (size, pinger) in sizes.iter().zip(pingers) {
        let stats = pinger.finish();
        assert_eq!(stats.lost, Vec::<usize>::new(), "{size} bytes to {to}: {stats}");
        worst = worst.max(stats.max_rtt.unwrap());
    }
    figure(
        &format!("sizes 64 to {mtu} right after link up, to {to}"),
        format_args!("{} sizes, 0 lost, worst rtt {worst:.1?}", sizes.len()),
    );
}

#[test]
fn all_packets_pass_over_ipv4_with_a_tun_mtu_of_1400_and_1500() {
    let mut pair = DualStackPair::start("over-v4", ["192.0.2.7:58423", "203.0.113.7:58423"]);
    pair.check_all_packets(1400);
    pair.check_all_packets(1500);
}

#[test]
fn all_packets_pass_over_ipv6_with_a_tun_mtu_of_1500_and_1400() {
    let mut pair =
        DualStackPair::start("over-v6", ["[2001:db8:5::7]:58423", "[2001:db8:4::7]:58423"]);
    pair.check_all_packets(1500);
    pair.check_all_packets(1400);
    let status = pair.east.status().unwrap();
    let remote = status["links"][0]["remote"].as_str().unwrap();
    assert!(remote.contains("2001:db8:4::7"), "{remote}");
}

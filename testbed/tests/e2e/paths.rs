//! Paths whose MTU changes, that block UDP, or with a NAT.

use std::time::{Duration, Instant};

use cframe_testbed::{Nat, PathMtu, wait_until};
use serde_json::Value;

use crate::lab::{DeployedPair, MS, SECOND, TIMEOUT, figure, linked, shared, wait_for, within};
use crate::traffic::{Background, flow};

/// The largest UDP payload over IPv4 in 1,300 bytes.
const SMALL_MTU: u64 = 1272;
/// A path MTU above this is that of the whole path: a packet of the TUN's MTU needs 1,438.
pub(crate) const FULL_MTU: u64 = 1430;

#[test]
fn a_tcp_flow_continues_while_the_path_mtu_falls_silently_and_grows_again() {
    let mut pair = DeployedPair::start("mtu", shared());
    let is_full = |status: &Value| status["links"][0]["path_mtu"].as_u64() > Some(FULL_MTU);
    let is_small = |status: &Value| status["links"][0]["path_mtu"].as_u64() <= Some(SMALL_MTU);
    pair.dialer.wait_status("the full path MTU", TIMEOUT, is_full).unwrap();
    let (from, to) =
        (pair.dialer.site().workload().clone(), pair.acceptor.site().workload().clone());
    let uplink = pair.acceptor.site().uplink().clone();
    let flow = flow(&from, &to, (to.address(), 0).into());
    wait_until(TIMEOUT, || flow.counted() > 50_000_000).unwrap();

    uplink.set_path_mtu(PathMtu::silent(1300)).unwrap();
    let mut gap = LongestGap::start(&flow);
    wait_for(TIMEOUT, || {
        gap.update(&flow) > 20_000_000 && is_small(&pair.dialer.status().unwrap())
    })
    .unwrap();
    within("path MTU 1500 → 1300 silently: the flow's longest gap", gap.longest, 5 * SECOND);

    uplink.set_path_mtu(None).unwrap();
    let (raised, mut gap) = (Instant::now(), LongestGap::start(&flow));
    // The edge probes for a larger MTU 10 s after a black hole, and then every 30 s.
    wait_for(35 * SECOND, || {
        gap.update(&flow);
        is_full(&pair.dialer.status().unwrap())
    })
    .unwrap();
    within("path MTU 1300 → 1500: found", raised.elapsed(), 35 * SECOND);
    within("path MTU 1300 → 1500: the flow's longest gap", gap.longest, SECOND);
    let before = flow.counted();
    wait_until(TIMEOUT, || flow.counted() > before + 20_000_000).unwrap();

    uplink.set_path_mtu(PathMtu::silent(1300)).unwrap();
    pair.dialer.wait_status("the small path MTU", TIMEOUT, is_small).unwrap();
    drop(flow);
    // Once both edges know the MTU, no inner packet up to the TUN's MTU is lost for its size.
    let sized = from.ping(to.address()).packet_size(1400).dont_fragment();
    let start = Instant::now();
    let pinger = sized.clone().start().unwrap();
    pinger.steady(10, TIMEOUT).unwrap();
    drop(pinger);
    within(
        "path MTU 1500 → 1300 silently: known at the other end too",
        start.elapsed(),
        5 * SECOND,
    );
    let stats = sized.count(200).run_to_end().unwrap();
    let drops =
        [&pair.dialer, &pair.acceptor].map(|edge| edge.status().unwrap()["drops"].to_string());
    assert_eq!(stats.lost, Vec::<usize>::new(), "{stats}; drops {}", drops.join(" and "));
}

/// The longest time in which no byte of a flow arrived.
struct LongestGap {
    start: u64,
    counted: u64,
    progress: Instant,
    longest: Duration,
}

impl LongestGap {
    fn start(flow: &Background) -> Self {
        let counted = flow.counted();
        Self { start: counted, counted, progress: Instant::now(), longest: Duration::ZERO }
    }

    /// Returns the bytes that have arrived since the start.
    fn update(&mut self, flow: &Background) -> u64 {
        let counted = flow.counted();
        self.longest = self.longest.max(self.progress.elapsed());
        if counted > self.counted {
            (self.counted, self.progress) = (counted, Instant::now());
        }
        counted - self.start
    }
}

#[test]
fn a_nat_that_loses_its_mappings_costs_at_most_a_second_while_the_side_behind_it_sends() {
    let nat = Nat::masquerade().random_ports();
    let pair = DeployedPair::behind_nat("nat", nat, shared());
    let pinger = pair.ping(10 * MS);
    for _ in 0..5 {
        pair.dialer.site().forget_nat().unwrap();
        pinger.steady(100, TIMEOUT).unwrap();
    }
    let stats = pinger.stop();
    figure("NAT lost its mappings 5 times", &stats);
    within("NAT lost its mappings: longest gap", stats.longest_gap, SECOND);
    assert!(!pair.acceptor.process().log().contains("link down"), "a session was lost");
}

#[test]
fn behind_a_nat_with_a_timeout_of_a_second_either_side_can_start() {
    let nat = Nat::masquerade().random_ports().udp_timeout(SECOND);
    let pair = DeployedPair::behind_nat("forgetful", nat, shared());
    let wait_idle = || std::thread::sleep(5 * SECOND);
    let [inside, outside] = [&pair.dialer, &pair.acceptor].map(|edge| edge.site().workload());
    drop(pair.ping(10 * MS));
    wait_idle();
    let took = inside.ping(outside.address()).first_reply(TIMEOUT).unwrap();
    within("NAT mapping timed out → first reply to the side behind it", took, SECOND);
    wait_idle();
    // The other side can send only after a keep-alive from behind the NAT.
    let took = outside.ping(inside.address()).first_reply(TIMEOUT).unwrap();
    within("NAT mapping timed out → first reply to the other side", took, 4 * SECOND);
    let log = pair.acceptor.process().log();
    assert!(!log.contains("link down"), "a session was lost:\n{log}");
}

#[test]
fn after_udp_was_blocked_for_12_s_traffic_flows_within_5_s() {
    let pair = DeployedPair::start("blocked", shared());
    let pinger = pair.ping(10 * MS);
    pair.acceptor.site().uplink().block_udp(true).unwrap();
    let start = Instant::now();
    let noticed = wait_for(2 * TIMEOUT, || {
        !linked(&pair.dialer, "aws-hk") && !linked(&pair.acceptor, "aliyun-sz")
    })
    .unwrap();
    within("UDP blocked → noticed at both ends", noticed, 10 * SECOND);
    std::thread::sleep((12 * SECOND).saturating_sub(start.elapsed()));
    pair.acceptor.site().uplink().block_udp(false).unwrap();
    let took = pinger.reply_after(Instant::now(), TIMEOUT).unwrap();
    within("UDP allowed again → traffic", took, 5 * SECOND);
}

//! Paths that get worse.

use std::time::{Duration, Instant};

use cframe_testbed::iperf::Iperf;
use cframe_testbed::{Nat, PathMtu, wait_until};

use crate::traffic::{blast, flow};
use crate::world::{MS, Mesh, PATIENCE, Pair, SECOND, World, alone, figure, ping, shared, within};

#[test]
fn a_tcp_flow_goes_on_when_the_paths_mtu_falls_in_silence() {
    let mut pair = Pair::start("mtu", shared());
    let full = |status: &serde_json::Value| status["links"][0]["path_mtu"].as_u64() > Some(1440);
    pair.dialer.wait_status("the whole path MTU", PATIENCE, full).unwrap();
    let (from, to) = (pair.dialer.site().workload(), pair.acceptor.site().workload());
    let flow = flow(from, to, (to.address(), 0).into());
    wait_until(PATIENCE, || flow.counted() > 50_000_000).unwrap();
    pair.acceptor.site().uplink().set_path_mtu(PathMtu::silent(1300)).unwrap();
    let start = Instant::now();
    let (mut last, mut progress, mut gap) = (flow.counted(), start, Duration::ZERO);
    wait_until(3 * PATIENCE, || {
        let counted = flow.counted();
        if counted > last {
            (last, progress) = (counted, Instant::now());
        }
        gap = gap.max(progress.elapsed());
        start.elapsed() > 12 * SECOND
    })
    .unwrap();
    let status = pair.dialer.status().unwrap();
    let mtu = &status["links"][0]["path_mtu"];
    figure("path MTU 1500 → 1300 in silence", format_args!("path_mtu {mtu} 12 s later"));
    within("path MTU 1500 → 1300 in silence: the flow's longest gap", gap, 5 * SECOND);
    let before = flow.counted();
    wait_until(PATIENCE, || flow.counted() > before + 20_000_000).unwrap();
    drop(flow);
    // Once the way back is known too, inner packets up to the TUN's MTU aren't lost for their size.
    let sized = from.ping(to.address()).packet_size(1400).dont_fragment();
    let start = Instant::now();
    let noticing = sized.clone().start().unwrap();
    noticing.steady(10, PATIENCE).unwrap();
    drop(noticing);
    within("path MTU 1500 → 1300 in silence: noticed on the way back", start.elapsed(), 5 * SECOND);
    let stats = sized.count(200).run_to_end().unwrap();
    let drops =
        [&pair.dialer, &pair.acceptor].map(|edge| edge.status().unwrap()["drops"].to_string());
    assert_eq!(stats.lost, Vec::<usize>::new(), "{stats}; drops {}", drops.join(" and "));
}

#[test]
fn a_nat_that_forgets_costs_at_most_a_second_while_the_side_behind_it_sends() {
    let nat = Nat::masquerade().random_ports();
    let pair = Pair::of(Mesh::named("lab", "nat", Some(nat), shared()));
    let pinger = pair.ping(10 * MS);
    for _ in 0..5 {
        pair.dialer.site().forget_nat().unwrap();
        pinger.steady(100, PATIENCE).unwrap();
    }
    let stats = pinger.stop();
    figure("NAT forgot its mappings 5 times", &stats);
    within("NAT forgot its mappings: longest gap", stats.longest_gap, SECOND);
    assert!(!pair.acceptor.process().log().contains("link down"), "a session was lost");
}

#[test]
fn a_nat_that_forgets_after_a_second_is_overcome_from_either_side() {
    let nat = Nat::masquerade().random_ports().udp_timeout(SECOND);
    let pair = Pair::of(Mesh::named("lab", "forgetful", Some(nat), shared()));
    let idle = || {
        let start = Instant::now();
        wait_until(PATIENCE, || start.elapsed() > 5 * SECOND).unwrap();
    };
    let [inside, outside] = [&pair.dialer, &pair.acceptor].map(|edge| edge.site().workload());
    drop(pair.ping(10 * MS));
    idle();
    let took = inside.ping(outside.address()).first_reply(PATIENCE).unwrap();
    within("NAT forgot in silence → first reply to the side behind it", took, SECOND);
    idle();
    // Only a keep-alive from behind it tells the other side where to.
    let took = outside.ping(inside.address()).first_reply(PATIENCE).unwrap();
    within("NAT forgot in silence → first reply to the other side", took, 4 * SECOND);
    let log = pair.acceptor.process().log();
    assert!(!log.contains("link down"), "a session was lost:\n{log}");
}

#[test]
fn udp_that_was_blocked_for_12_s_carries_traffic_5_s_after() {
    let pair = Pair::start("blocked", shared());
    let pinger = pair.ping(10 * MS);
    pair.acceptor.site().uplink().block_udp(true).unwrap();
    let start = Instant::now();
    let noticed = wait_until(2 * PATIENCE, || {
        !crate::world::linked(&pair.dialer, "aws-hk")
            && !crate::world::linked(&pair.acceptor, "aliyun-sz")
    })
    .unwrap();
    within("UDP blocked → noticed at both ends", noticed, 10 * SECOND);
    wait_until(2 * PATIENCE, || start.elapsed() >= 12 * SECOND).unwrap();
    pair.acceptor.site().uplink().block_udp(false).unwrap();
    let took = pinger.reply_after(Instant::now(), PATIENCE).unwrap();
    within("UDP back → traffic", took, 5 * SECOND);
}

#[test]
fn a_slow_link_does_not_hold_up_a_fast_one_of_the_same_edge() {
    let world = World::start("slow", alone());
    let (sz, hk, idc) = (world.sz.site(), world.hk.site(), world.idc.site());
    let fast = |seconds| {
        Iperf::tcp(seconds).run(sz.workload(), hk.workload(), hk.workload().address()).unwrap().mbit
    };
    let before = fast(2);
    idc.uplink().limit_rate(1).unwrap();
    let pinger = ping(&world.sz, &world.hk, 10 * MS);
    // 24 Mbit/s into 1: most of it waits, and is dropped, at the slow link.
    let blast = blast(sz.workload(), (idc.workload().address(), 9).into(), 1000, 3000);
    let sent = pinger.stats().sent;
    wait_until(PATIENCE, || pinger.stats().sent >= sent + 200).unwrap();
    let quiet = pinger.stop();
    let beside = fast(3);
    assert!(blast.counted() > 6000);
    drop(blast);
    figure(
        "a link of 1 Mbit/s beside a fast one",
        format_args!(
            "fast one: {} of {} pings lost, max rtt {:.1?}; {beside:.0} Mbit/s beside it, {before:.0} alone",
            quiet.lost.len(),
            quiet.sent,
            quiet.max_rtt.unwrap()
        ),
    );
    assert_eq!(quiet.lost, Vec::<usize>::new(), "{quiet}");
    assert!(beside > before / 2.0, "{beside:.0} of {before:.0} Mbit/s");
    drop(ping(&world.hk, &world.sz, 10 * MS));
}

//! Paths that get worse.

use std::fmt;
use std::time::{Duration, Instant};

use cframe_testbed::iperf::Iperf;
use cframe_testbed::{Nat, PathMtu, PingStats, WanPath, wait_until};
use serde_json::Value;

use crate::traffic::{Background, blast, flow, sink, volley};
use crate::world::{MS, Mesh, PATIENCE, Pair, SECOND, World, alone, figure, ping, shared, within};

/// The largest UDP payload over IPv4 that 1,300 bytes carry, and less than what carries the TUN's MTU whole (1,438).
const SMALL: u64 = 1272;
const WHOLE: u64 = 1430;

#[test]
fn a_tcp_flow_goes_on_while_the_paths_mtu_falls_in_silence_and_grows_back() {
    let mut pair = Pair::start("mtu", shared());
    let whole = |status: &Value| status["links"][0]["path_mtu"].as_u64() > Some(WHOLE);
    let small = |status: &Value| status["links"][0]["path_mtu"].as_u64() <= Some(SMALL);
    pair.dialer.wait_status("the whole path MTU", PATIENCE, whole).unwrap();
    let (from, to) =
        (pair.dialer.site().workload().clone(), pair.acceptor.site().workload().clone());
    let uplink = pair.acceptor.site().uplink().clone();
    let flow = flow(&from, &to, (to.address(), 0).into());
    wait_until(PATIENCE, || flow.counted() > 50_000_000).unwrap();

    uplink.set_path_mtu(PathMtu::silent(1300)).unwrap();
    let mut gap = Gap::of(&flow);
    wait_until(PATIENCE, || gap.look(&flow) > 20_000_000 && small(&pair.dialer.status().unwrap()))
        .unwrap();
    within("path MTU 1500 → 1300 in silence: the flow's longest gap", gap.longest, 5 * SECOND);

    uplink.set_path_mtu(None).unwrap();
    let (back, mut gap) = (Instant::now(), Gap::of(&flow));
    // The path is looked at 10 s after a black hole, and every 30 s after it was.
    wait_until(35 * SECOND, || {
        gap.look(&flow);
        whole(&pair.dialer.status().unwrap())
    })
    .unwrap();
    within("path MTU 1300 → 1500: found", back.elapsed(), 35 * SECOND);
    within("path MTU 1300 → 1500: the flow's longest gap", gap.longest, SECOND);
    let before = flow.counted();
    wait_until(PATIENCE, || flow.counted() > before + 20_000_000).unwrap();

    uplink.set_path_mtu(PathMtu::silent(1300)).unwrap();
    pair.dialer.wait_status("the small path MTU", PATIENCE, small).unwrap();
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

/// How long nothing arrived, at most.
struct Gap {
    begun: u64,
    counted: u64,
    progress: Instant,
    longest: Duration,
}

impl Gap {
    fn of(flow: &Background) -> Self {
        let counted = flow.counted();
        Self { begun: counted, counted, progress: Instant::now(), longest: Duration::ZERO }
    }

    /// Bytes that have arrived since the gap was asked about first.
    fn look(&mut self, flow: &Background) -> u64 {
        let counted = flow.counted();
        self.longest = self.longest.max(self.progress.elapsed());
        if counted > self.counted {
            (self.counted, self.progress) = (counted, Instant::now());
        }
        counted - self.begun
    }
}

#[test]
fn what_a_path_loses_is_what_the_flows_inside_lose_and_no_more() {
    let mut pair = Pair::start("loss", alone());
    for edge in [&mut pair.dialer, &mut pair.acceptor] {
        let whole = |status: &Value| status["links"][0]["path_mtu"].as_u64() > Some(WHOLE);
        edge.wait_status("the whole path MTU", PATIENCE, whole).unwrap();
    }
    for loss in [1.0, 5.0, 20.0] {
        let lost = Lost::of(&pair, 1000, loss);
        assert!((lost.inner - lost.outer).abs() <= 0.5, "{lost}");
        assert!(lost.path_mtu > WHOLE && lost.black_holes == 0, "{lost}");
    }
    // Of the TUN's MTU. quinn-proto 0.11.19 may take the loss of these for a path that has shrunk: then they go in
    // halves for a while, of which each may be lost.
    for loss in [1.0, 5.0, 20.0] {
        let lost = Lost::of(&pair, 1372, loss);
        let most = if lost.black_holes == 0 { lost.outer } else { 2.0 * lost.outer };
        assert!(lost.inner <= most + 0.5 && lost.inner >= lost.outer - 0.5, "{lost}");
    }
    for edge in [&pair.dialer, &pair.acceptor] {
        let log = edge.process().log();
        assert!(!log.contains("link down"), "the link went down:\n{log}");
    }
}

/// What became of many datagrams, in percent.
#[derive(Debug)]
struct Lost {
    inner: f64,
    outer: f64,
    path_mtu: u64,
    black_holes: u64,
}

impl Lost {
    /// Sends them from the dialer's side to the acceptor's, over a path that loses so many of a hundred.
    fn of(pair: &Pair, size: usize, loss: f64) -> Self {
        const PACKETS: u32 = 20_000;
        let (from, to) = (pair.dialer.site(), pair.acceptor.site());
        let wan = from.uplink().wan_to(to.uplink());
        let (address, sink) = sink(to.workload(), (to.workload().address(), 0).into());
        wan.set(&WanPath { delay: 5 * MS, loss, seed: 7, ..WanPath::default() }).unwrap();
        volley(from.workload(), address, size, PACKETS, 20_000);
        let arrived = settled(|| sink.counted());
        let outer = wan.status().unwrap().counters;
        let status = pair.dialer.status().unwrap();
        let link = &status["links"][0];
        let lost = Self {
            inner: 100.0 * (1.0 - arrived as f64 / f64::from(PACKETS)),
            outer: 100.0 * outer.lost as f64 / outer.offered as f64,
            path_mtu: link["path_mtu"].as_u64().unwrap(),
            black_holes: link["black_holes"].as_u64().unwrap(),
        };
        let what = format!("{PACKETS} datagrams of {size} bytes at {loss} % loss");
        figure(&what, format_args!("{lost}; the path: {outer}; drops {}", status["drops"]));
        lost
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, outer, path_mtu, black_holes } = self;
        write!(
            f,
            "{inner:.2} % lost inside, {outer:.2} % outside; path_mtu {path_mtu}, black_holes {black_holes} so far"
        )
    }
}

/// A value that no longer changes: what was on its way is there.
fn settled<T: PartialEq>(mut value: impl FnMut() -> T) -> T {
    let (mut last, mut since) = (value(), Instant::now());
    wait_until(PATIENCE, || {
        let now = value();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > 200 * MS
    })
    .unwrap();
    last
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
    const ROUNDS: usize = 3;
    let world = World::start("slow", alone());
    let (sz, hk, idc) = (world.sz.site(), world.hk.site(), world.idc.site());
    idc.uplink().limit_rate(1).unwrap();
    let fast = || {
        let pings = sz.workload().ping(hk.workload().address()).interval(2 * MS).count(200);
        let pings = pings.linger(200 * MS).run_to_end().unwrap();
        let to = hk.workload();
        (Iperf::tcp(2).run(sz.workload(), to, to.address()).unwrap().mbit, pings)
    };
    let (mut alone, mut beside) = (Fast::default(), Fast::default());
    for _ in 0..ROUNDS {
        alone.add(fast());
        // 24 Mbit/s into 1: most of it waits, and is dropped, at the slow link.
        let blast = blast(sz.workload(), (idc.workload().address(), 9).into(), 1000, 3000);
        wait_until(PATIENCE, || blast.counted() > 600).unwrap();
        beside.add(fast());
        assert!(blast.counted() > 6000);
    }
    let [speed, middle, late] = beside.over(&alone);
    figure(
        "a link of 1 Mbit/s beside a fast one, beside/alone",
        format_args!(
            "TCP {speed:.3} (target 0.95), ping p50 {middle:.3}, p99 {late:.3} (target 1.2): {beside} and {alone}"
        ),
    );
    assert_eq!(beside.lost, 0, "{beside}");
    assert!(speed > 0.5, "{beside} and {alone}");
    drop(ping(&world.hk, &world.sz, 10 * MS));
}

/// A fast link in several rounds.
#[derive(Default)]
struct Fast {
    mbit: Vec<f64>,
    /// Round trips of each round in milliseconds.
    middle: Vec<f64>,
    late: Vec<f64>,
    lost: usize,
}

impl Fast {
    fn add(&mut self, (mbit, pings): (f64, PingStats)) {
        let mut rtts: Vec<_> = pings.probes.iter().filter_map(|probe| probe.rtt).collect();
        rtts.sort_unstable();
        let at = |share: usize| rtts[rtts.len() * share / 100].as_secs_f64() * 1e3;
        self.mbit.push(mbit);
        self.middle.push(at(50));
        self.late.push(at(99));
        self.lost += pings.lost.len();
    }

    fn medians(&self) -> [f64; 3] {
        [&self.mbit, &self.middle, &self.late].map(|values| {
            let mut values = values.clone();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        })
    }

    fn over(&self, other: &Self) -> [f64; 3] {
        let (ours, theirs) = (self.medians(), other.medians());
        [0, 1, 2].map(|index| ours[index] / theirs[index])
    }
}

impl fmt::Display for Fast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mbit, middle, late] = self.medians();
        write!(f, "{mbit:.0} Mbit/s, p50 {middle:.3} ms, p99 {late:.3} ms, {} lost", self.lost)
    }
}

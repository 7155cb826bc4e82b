//! A slow link beside a fast one.

use std::fmt;

use cframe_testbed::iperf::Iperf;
use cframe_testbed::{PingStats, wait_until};

use crate::lab::{DeployedEdges, MS, TIMEOUT, alone, figure, ping};
use crate::traffic::blast;

const ROUNDS: usize = 3;

#[test]
fn a_slow_link_does_not_slow_down_a_fast_one_of_the_same_edge() {
    let edges = DeployedEdges::start("slow", alone());
    let (sz, hk, idc) = (edges.sz.site(), edges.hk.site(), edges.idc.site());
    idc.uplink().limit_rate(1).unwrap();
    let measure = || {
        let pings = sz.workload().ping(hk.workload().address()).interval(2 * MS).count(200);
        let pings = pings.linger(200 * MS).run_to_end().unwrap();
        let to = hk.workload();
        (Iperf::tcp(2).run(sz.workload(), to, to.address()).unwrap().mbit, pings)
    };
    let (mut alone, mut beside) = (FastLink::default(), FastLink::default());
    for _ in 0..ROUNDS {
        alone.add(measure());
        // 24 Mbit/s into 1 Mbit/s: most of it is queued at the slow link, and dropped.
        let blast = blast(sz.workload(), (idc.workload().address(), 9).into(), 1000, 3000);
        wait_until(TIMEOUT, || blast.counted() > 600).unwrap();
        beside.add(measure());
        assert!(blast.counted() > 6000);
    }
    let [speed, p50, p99] = beside.ratios(&alone);
    figure(
        "a link of 1 Mbit/s beside a fast one, beside/alone",
        format_args!(
            "TCP {speed:.3} (target 0.95), ping p50 {p50:.3}, p99 {p99:.3} (target 1.2): {beside} and {alone}"
        ),
    );
    assert_eq!(beside.lost, 0, "{beside}");
    assert!(speed > 0.5, "{beside} and {alone}");
    drop(ping(&edges.hk, &edges.sz, 10 * MS));
}

/// Measurements of the fast link, by round.
#[derive(Default)]
struct FastLink {
    mbit: Vec<f64>,
    /// Percentiles of the round-trip times, in milliseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
    lost: usize,
}

impl FastLink {
    fn add(&mut self, (mbit, pings): (f64, PingStats)) {
        let mut rtts: Vec<_> = pings.probes.iter().filter_map(|probe| probe.rtt).collect();
        rtts.sort_unstable();
        let at = |share: usize| rtts[rtts.len() * share / 100].as_secs_f64() * 1e3;
        self.mbit.push(mbit);
        self.p50.push(at(50));
        self.p99.push(at(99));
        self.lost += pings.lost.len();
    }

    fn medians(&self) -> [f64; 3] {
        [&self.mbit, &self.p50, &self.p99].map(|values| {
            let mut values = values.clone();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        })
    }

    fn ratios(&self, other: &Self) -> [f64; 3] {
        let (ours, theirs) = (self.medians(), other.medians());
        [0, 1, 2].map(|index| ours[index] / theirs[index])
    }
}

impl fmt::Display for FastLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mbit, p50, p99] = self.medians();
        write!(f, "{mbit:.0} Mbit/s, p50 {p50:.3} ms, p99 {p99:.3} ms, {} lost", self.lost)
    }
}

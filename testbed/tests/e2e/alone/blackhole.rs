//! The memory that traffic without a path costs.

use std::time::Instant;

use cframe_testbed::wait_until;

use crate::lab::{DeployedPair, MS, SECOND, TIMEOUT, alone, figure, mib, within};
use crate::traffic::blast;

/// For the peak memory of an edge.
const BOUND_KIB: u64 = 64 << 10;

#[test]
fn a_million_packets_into_a_black_hole_take_at_most_64_mib() {
    let pair = DeployedPair::start("hole", alone());
    let pinger = pair.ping(5 * MS);
    let target = pair.acceptor.site().workload().address();
    let blast = blast(pair.dialer.site().workload(), (target, 9).into(), 1300, 130_000);
    wait_until(TIMEOUT, || blast.counted() > 100_000).unwrap();
    let before = pair.dialer.process().peak_rss_kib().unwrap();
    pair.acceptor.site().uplink().cut(true).unwrap();
    let (start, sent) = (Instant::now(), blast.counted());
    wait_until(3 * TIMEOUT, || {
        start.elapsed() >= 10 * SECOND && blast.counted() - sent >= 1_000_000
    })
    .unwrap();
    let (packets, took) = (blast.counted() - sent, start.elapsed());
    drop(blast);
    let [dialer, acceptor] =
        [&pair.dialer, &pair.acceptor].map(|edge| edge.process().peak_rss_kib().unwrap());
    figure(
        "black hole",
        format_args!(
            "{packets} packets in {took:.1?}, peak RSS {:.1} MiB (before {:.1}), other end {:.1} (bound 64)",
            mib(dialer),
            mib(before),
            mib(acceptor)
        ),
    );
    assert!(dialer <= BOUND_KIB && acceptor <= BOUND_KIB, "{dialer} KiB, {acceptor} KiB");
    pair.acceptor.site().uplink().cut(false).unwrap();
    let took = pinger.reply_after(Instant::now(), TIMEOUT).unwrap();
    within("the black hole ends → traffic", took, 5 * SECOND);
}

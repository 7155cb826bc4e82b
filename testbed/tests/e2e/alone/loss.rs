//! Paths that lose packets.

use std::fmt;
use std::time::Instant;

use cframe_testbed::{WanPath, wait_until};
use serde_json::Value;

use crate::lab::{DeployedPair, MS, TIMEOUT, alone, figure};
use crate::paths::FULL_MTU;
use crate::traffic::{sink, volley};

#[test]
fn inner_flows_lose_as_much_as_the_path_and_no_more() {
    let mut pair = DeployedPair::start("loss", alone());
    for edge in [&mut pair.dialer, &mut pair.acceptor] {
        let is_full = |status: &Value| status["links"][0]["path_mtu"].as_u64() > Some(FULL_MTU);
        edge.wait_status("the full path MTU", TIMEOUT, is_full).unwrap();
    }
    for loss in [1.0, 5.0, 20.0] {
        let lost = Loss::measure(&pair, 1000, loss);
        assert!((lost.inner - lost.outer).abs() <= 0.5, "{lost}");
        assert!(lost.path_mtu > FULL_MTU && lost.black_holes == 0, "{lost}");
    }
    // Packets of the TUN's MTU. quinn-proto 0.11.19 may take their loss for a smaller path MTU: then each goes in two
    // halves for a while, either of which may be lost.
    for loss in [1.0, 5.0, 20.0] {
        let lost = Loss::measure(&pair, 1372, loss);
        let max_loss = if lost.black_holes == 0 { lost.outer } else { 2.0 * lost.outer };
        assert!(lost.inner <= max_loss + 0.5 && lost.inner >= lost.outer - 0.5, "{lost}");
    }
    for edge in [&pair.dialer, &pair.acceptor] {
        let log = edge.process().log();
        assert!(!log.contains("link down"), "the link went down:\n{log}");
    }
}

/// The loss of inner datagrams, and of the path below them, in percent.
#[derive(Debug)]
struct Loss {
    inner: f64,
    outer: f64,
    path_mtu: u64,
    black_holes: u64,
}

impl Loss {
    /// Sends datagrams from the dialer's workload to the acceptor's over a path with a loss of `loss` percent.
    fn measure(pair: &DeployedPair, size: usize, loss: f64) -> Self {
        const PACKETS: u32 = 20_000;
        let (from, to) = (pair.dialer.site(), pair.acceptor.site());
        let wan = from.uplink().wan_to(to.uplink());
        let (address, sink) = sink(to.workload(), (to.workload().address(), 0).into());
        wan.set(&WanPath { delay: 5 * MS, loss, seed: 7, ..WanPath::default() }).unwrap();
        volley(from.workload(), address, size, PACKETS, 20_000);
        let arrived = wait_constant(|| sink.counted());
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

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, outer, path_mtu, black_holes } = self;
        write!(
            f,
            "{inner:.2} % lost inside, {outer:.2} % outside; path_mtu {path_mtu}, black_holes {black_holes} so far"
        )
    }
}

/// Waits until a value has not changed for 200 ms.
fn wait_constant<T: PartialEq>(mut value: impl FnMut() -> T) -> T {
    let (mut last, mut since) = (value(), Instant::now());
    wait_until(TIMEOUT, || {
        let now = value();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > 200 * MS
    })
    .unwrap();
    last
}

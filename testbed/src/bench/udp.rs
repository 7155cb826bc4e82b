//! The highest rate of small packets with little loss: a paced sender of single packets, a receiver
//! that counts them, and a search for the rate.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt;

use crate::host::Host;
use crate::sys;

/// UDP payload of an IPv4 packet of 64 bytes.
const PAYLOAD: usize = 64 - 28;
/// Share of packets that may be lost.
const MAX_LOSS: f64 = 0.01;
/// Receive buffer of the socket, large enough not to overflow.
const SOCKET_BUFFER: usize = 16 << 20;
/// Time between two bursts of the sender.
const TICK: Duration = Duration::from_micros(100);
/// How long to receive after the sender has stopped.
const LINGER: Duration = Duration::from_millis(100);
/// Maximum number of packets of a system call.
const BATCH: usize = 64;

/// Rates of a trial in packets per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// Packets that the kernel accepted from the sender.
    pub(super) sent: f64,
    pub(super) received: f64,
}

impl Trial {
    fn passes(&self) -> bool {
        self.received >= self.sent * (1.0 - MAX_LOSS)
    }
}

pub(super) struct UdpPath<'a> {
    pub(super) from: &'a Host,
    pub(super) to: &'a Host,
    /// The receiver's address on `to`.
    pub(super) address: IpAddr,
    /// Number of source ports.
    pub(super) flows: u16,
}

/// The highest received rate, in packets per second, of a trial of `length` with less than 1 % loss.
pub(super) fn max_packet_rate(path: &UdpPath<'_>, length: Duration) -> Result<f64> {
    let sink = path.to.enter(|| open_sink(path.address))??;
    let address = sink.local_addr().context("reading the receiver's port")?;
    let sources = path.from.enter(|| open_sources(address, path.flows))??;
    // A first trial sets up the flows on the path and is not counted.
    run_trial(&sources, &sink, 1_000.0, length / 4)?;
    let mut best = 0.0;
    find_max_rate(|rate| {
        // A rate has to fail twice, as the machine may pause for a moment.
        for _ in 0..2 {
            let trial = run_trial(&sources, &sink, rate, length)?;
            if trial.passes() {
                best = f64::max(best, trial.received);
                // If the sender doesn't reach the rate, a higher rate would not either.
                return Ok(trial.sent >= rate * 0.97);
            }
        }
        Ok(false)
    })?;
    Ok(best)
}

/// Finds the highest rate that passes, to 3 %: doubles it until one fails, then bisects.
fn find_max_rate(mut passes: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    const FIRST: f64 = 20_000.0;
    const PRECISION: f64 = 1.03;
    let mut good = 0.0;
    let mut bad = FIRST;
    while passes(bad)? {
        good = bad;
        bad *= 2.0;
    }
    if good == 0.0 {
        // The first rate has failed: start from one low enough to pass.
        good = FIRST / 64.0;
    }
    while bad / good > PRECISION {
        let middle = (good * bad).sqrt();
        if passes(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

fn open_sink(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0)).context("binding the receiver")?;
    // Without root limited by the system's maximum.
    sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER))
        .context("setting the receive buffer")?;
    socket.set_read_timeout(Some(Duration::from_millis(20))).context("setting a timeout")?;
    Ok(socket)
}

fn open_sources(to: SocketAddr, flows: u16) -> Result<Vec<UdpSocket>> {
    let any: IpAddr = [0, 0, 0, 0].into();
    (0..flows)
        .map(|_| {
            let socket = UdpSocket::bind((any, 0)).context("binding a sender")?;
            socket.connect(to).with_context(|| format!("connecting to {to}"))?;
            Ok(socket)
        })
        .collect()
}

fn run_trial(
    sources: &[UdpSocket],
    sink: &UdpSocket,
    rate: f64,
    length: Duration,
) -> Result<Trial> {
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let sent = thread::scope(|scope| {
        scope.spawn(|| count_received(sink, &stop, &received));
        let sent = send(sources, rate, length);
        thread::sleep(LINGER);
        stop.store(true, Ordering::Relaxed);
        sent
    });
    let seconds = length.as_secs_f64();
    let received = received.into_inner() as f64 / seconds;
    Ok(Trial { sent: sent as f64 / seconds, received })
}

fn count_received(sink: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(count) = sys::receive_and_discard::<BATCH>(sink) {
            received.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// Sends packets at `rate` in bursts, from all flows in turn, and returns how many the kernel
/// accepted.
fn send(sources: &[UdpSocket], rate: f64, length: Duration) -> u64 {
    // With the default slack of 50 µs a sleep of 100 µs takes 150 µs.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let start = Instant::now();
    let (mut tried, mut sent, mut flow) = (0, 0, 0);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length {
            return sent;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        let due = (elapsed.as_secs_f64() * rate) as u64;
        // One flow sends a batch by one system call, several flows send one packet each.
        let share = if sources.len() == 1 { BATCH as u64 } else { 1 };
        if due <= tried {
            thread::sleep(TICK);
            continue;
        }
        let count = share.min(due - tried);
        sent += sys::send_copies(&sources[flow], &[0; PAYLOAD], count as usize).unwrap_or(0) as u64;
        tried += count;
        flow = (flow + 1) % sources.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_limit_from_below() {
        for limit in [700.0, 19_000.0, 20_000.0, 150_000.0, 1_234_567.0] {
            let found = find_max_rate(|rate| Ok(rate <= limit)).unwrap();
            assert!(found <= limit && found * 1.03 >= limit, "{found} for {limit}");
        }
    }

    #[test]
    fn a_search_ends_with_the_first_error() {
        let mut calls = 0;
        find_max_rate(|_| {
            calls += 1;
            anyhow::bail!("no socket")
        })
        .unwrap_err();
        assert_eq!(calls, 1);
    }

    #[test]
    fn packets_on_the_loopback_are_counted() {
        let sink = open_sink([127, 0, 0, 1].into()).unwrap();
        let sources = open_sources(sink.local_addr().unwrap(), 3).unwrap();
        let trial = run_trial(&sources, &sink, 3_000.0, Duration::from_millis(200)).unwrap();
        assert!(trial.sent > 0.0 && trial.passes(), "{trial:?}");
    }
}

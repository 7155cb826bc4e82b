//! The most small packets a second that get through: a paced sender of real single packets, a receiver that counts,
//! and a search for the rate.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt;

use crate::{Host, sys};

/// UDP payload: 64 bytes with its header and IPv4's.
const PAYLOAD: usize = 64 - 28;
/// Packets that may be lost.
const LOSS: f64 = 0.01;
/// What the receiver's socket holds, so that it is not the one that loses.
const BUFFER: usize = 16 << 20;
/// Between two bursts of the sender.
const TICK: Duration = Duration::from_micros(100);
/// What is on its way when the sender stops.
const LINGER: Duration = Duration::from_millis(100);
/// Most packets handed over by one system call.
const BATCH: usize = 64;

/// One trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    /// Packets handed to the kernel a second.
    pub(super) sent: f64,
    /// Packets that arrived a second.
    pub(super) received: f64,
}

impl Trial {
    fn is_good(&self) -> bool {
        self.received >= self.sent * (1.0 - LOSS)
    }
}

/// What the load goes from and to.
pub(super) struct Course<'a> {
    pub(super) from: &'a Host,
    pub(super) to: &'a Host,
    /// The address on `to`.
    pub(super) address: IpAddr,
    /// Source ports.
    pub(super) flows: u16,
}

/// The largest received rate of a trial of `length` in which less than 1 % were lost, in packets a second.
pub(super) fn most_packets(course: &Course<'_>, length: Duration) -> Result<f64> {
    let sink = course.to.enter(|| sink(course.address))??;
    let address = sink.local_addr().context("reading the receiver's port")?;
    let sources = course.from.enter(|| sources(address, course.flows))??;
    // What a new flow sets up on the way is not what is measured.
    trial(&sources, &sink, 1_000.0, length / 4)?;
    let mut best = 0.0;
    search(|rate| {
        // A hiccup of the machine is no limit: what fails must do so twice.
        for _ in 0..2 {
            let trial = trial(&sources, &sink, rate, length)?;
            if trial.is_good() {
                best = f64::max(best, trial.received);
                // A sender that can't keep up has shown the most there is.
                return Ok(trial.sent >= rate * 0.97);
            }
        }
        Ok(false)
    })?;
    Ok(best)
}

/// Looks for the largest rate that passes, to 3 %: doubles until one doesn't, then halves the interval.
fn search(mut passes: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    const FIRST: f64 = 20_000.0;
    const PRECISION: f64 = 1.03;
    let mut good = 0.0;
    let mut bad = FIRST;
    while passes(bad)? {
        good = bad;
        bad *= 2.0;
    }
    if good == 0.0 {
        // Slower than the first: from a fraction that surely passes.
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

fn sink(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0)).context("binding the receiver")?;
    // Without root it is as large as the system allows.
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BUFFER))
        .context("enlarging its buffer")?;
    socket.set_read_timeout(Some(Duration::from_millis(20))).context("setting a time-out")?;
    Ok(socket)
}

fn sources(to: SocketAddr, flows: u16) -> Result<Vec<UdpSocket>> {
    let any: IpAddr = [0, 0, 0, 0].into();
    (0..flows)
        .map(|_| {
            let socket = UdpSocket::bind((any, 0)).context("binding a sender")?;
            socket.connect(to).with_context(|| format!("connecting to {to}"))?;
            Ok(socket)
        })
        .collect()
}

fn trial(sources: &[UdpSocket], sink: &UdpSocket, rate: f64, length: Duration) -> Result<Trial> {
    let (over, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let sent = thread::scope(|scope| {
        scope.spawn(|| count(sink, &over, &received));
        let sent = send(sources, rate, length);
        thread::sleep(LINGER);
        over.store(true, Ordering::Relaxed);
        sent
    });
    let seconds = length.as_secs_f64();
    let received = received.into_inner() as f64 / seconds;
    Ok(Trial { sent: sent as f64 / seconds, received })
}

fn count(sink: &UdpSocket, over: &AtomicBool, received: &AtomicU64) {
    while !over.load(Ordering::Relaxed) {
        if let Ok(count) = sys::receive_and_forget::<BATCH>(sink) {
            received.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// Sends bursts of what is due, the flows in turn, and returns how many packets the kernel took.
fn send(sources: &[UdpSocket], rate: f64, length: Duration) -> u64 {
    // Otherwise a tick of 100 µs is one of 150.
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
        // One flow takes a batch by one call, many take one packet each.
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
            let found = search(|rate| Ok(rate <= limit)).unwrap();
            assert!(found <= limit && found * 1.03 >= limit, "{found} for {limit}");
        }
    }

    #[test]
    fn a_search_ends_with_the_first_error() {
        let mut asked = 0;
        search(|_| {
            asked += 1;
            anyhow::bail!("no socket")
        })
        .unwrap_err();
        assert_eq!(asked, 1);
    }

    #[test]
    fn what_is_sent_on_loopback_is_counted() {
        let sink = sink([127, 0, 0, 1].into()).unwrap();
        let sources = sources(sink.local_addr().unwrap(), 3).unwrap();
        let seen = trial(&sources, &sink, 3_000.0, Duration::from_millis(200)).unwrap();
        assert!(seen.sent > 0.0 && seen.is_good(), "{seen:?}");
    }
}

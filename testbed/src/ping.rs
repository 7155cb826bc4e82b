//! Series of echo requests with the result of each: ping(8) doesn't report which ones were lost.

mod echo;
mod stats;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::netns::Netns;
use echo::Echo;

pub use stats::PingStats;

/// Parameters of a series of echo requests, from [`Host::ping`](crate::Host::ping).
#[derive(Clone, Debug)]
pub struct Ping {
    from: Netns,
    target: IpAddr,
    interval: Duration,
    count: Option<u64>,
    packet_size: usize,
    dont_fragment: bool,
    linger: Duration,
}

impl Ping {
    pub(crate) fn new(from: Netns, target: IpAddr) -> Self {
        Self {
            from,
            target,
            interval: Duration::from_millis(10),
            count: None,
            packet_size: 84,
            dont_fragment: false,
            linger: Duration::from_secs(1),
        }
    }

    /// Time between two requests; 10 ms by default.
    #[must_use]
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// Number of requests; unlimited by default.
    #[must_use]
    pub fn count(self, count: u64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// Size of the IP packet, headers included: at least 44 bytes with IPv4 and 64 with IPv6; 84 by
    /// default.
    #[must_use]
    pub fn packet_size(self, bytes: usize) -> Self {
        Self { packet_size: bytes, ..self }
    }

    /// Sets DF on the requests and ignores the path MTU learnt from earlier ICMP errors
    /// (`IP_PMTUDISC_PROBE` of ip(7)).
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        Self { dont_fragment: true, ..self }
    }

    /// How long to wait for replies to the last requests; 1 s by default.
    #[must_use]
    pub fn linger(self, linger: Duration) -> Self {
        Self { linger, ..self }
    }

    /// Starts to send in the background.
    pub fn start(self) -> Result<Pinger> {
        let echo = self
            .from
            .enter(|| Echo::open(self.target, self.packet_size, self.dont_fragment))?
            .with_context(|| format!("pinging {} from {}", self.target, self.from.name()))?;
        let shared = Arc::new(Shared::default());
        let endless = self.count.is_none();
        let thread = thread::Builder::new()
            .name("pinger".into())
            .spawn({
                let shared = shared.clone();
                move || self.run(&echo, &shared)
            })
            .context("starting a thread")?;
        Ok(Pinger { shared, endless, thread: Some(thread) })
    }

    /// Sends `count` requests, 3 by default, and waits for the replies.
    pub fn run_to_end(self) -> Result<PingStats> {
        let count = self.count.unwrap_or(3);
        Ok(self.count(count).start()?.finish())
    }

    /// Sends until the first reply and returns the time that it took; an error after `timeout`.
    pub fn first_reply(self, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        let linger = Duration::ZERO;
        self.linger(linger).start()?.reply_after(start, timeout)
    }

    fn run(self, echo: &Echo, shared: &Shared) {
        let mut next = Instant::now();
        let mut sent = 0;
        let mut end = None;
        loop {
            let now = Instant::now();
            let sending =
                self.count.is_none_or(|count| sent < count) && !shared.stop.load(Ordering::Relaxed);
            if sending && now >= next {
                shared.sent(now, echo.send(sent));
                sent += 1;
                // No burst to catch up after a long pause, such as a suspended machine.
                next = (next + self.interval).max(now.checked_sub(self.interval).unwrap_or(now));
                continue;
            }
            let until = if sending { next } else { *end.get_or_insert(now + self.linger) };
            if !sending && (now >= until || shared.all_answered()) {
                return;
            }
            if let Some(sequence) = receive(echo, until - now) {
                shared.answered(sequence, Instant::now());
            }
        }
    }
}

/// Waits for a reply, 20 ms at most so that the caller notices a stop.
fn receive(echo: &Echo, wait: Duration) -> Option<u64> {
    let wait = wait.min(Duration::from_millis(20));
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
    let mut fds = [PollFd::from_borrowed_fd(echo.as_fd(), PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(1..) => echo.receive(),
        Ok(0) | Err(Errno::INTR) => None,
        Err(error) => panic!("polling the ICMP socket: {error}"),
    }
}

/// A series of echo requests in the background. Dropping it stops it.
#[derive(Debug)]
pub struct Pinger {
    shared: Arc<Shared>,
    endless: bool,
    thread: Option<JoinHandle<()>>,
}

impl Pinger {
    /// The results so far. Requests without a reply count as sent but not yet as lost.
    pub fn stats(&self) -> PingStats {
        self.shared.record().stats(false)
    }

    /// Waits for a reply to a request sent at `start` or later, and returns the time from `start` to
    /// the reply.
    pub fn reply_after(&self, start: Instant, timeout: Duration) -> Result<Duration> {
        let deadline = Instant::now() + timeout;
        let mut record = self.shared.record();
        loop {
            let first = record.probes.partition_point(|probe| probe.sent < start);
            let arrivals = record.probes[first..].iter().filter_map(|p| Some(p.sent + p.rtt?));
            if let Some(arrival) = arrivals.min() {
                return Ok(arrival - start);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no reply within {timeout:?}: {}", record.stats(true));
            record = self
                .shared
                .changed
                .wait_timeout(record, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until `count` requests in a row, sent from now on, have been answered.
    pub fn steady(&self, count: usize, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < timeout {
            let record = self.shared.record();
            let first = record.probes.partition_point(|probe| probe.sent < start);
            let mut row = 0;
            for probe in &record.probes[first..] {
                row = if probe.rtt.is_some() { row + 1 } else { 0 };
                if row >= count {
                    return Ok(());
                }
            }
            drop(self.shared.changed.wait_timeout(record, Duration::from_millis(20)));
        }
        bail!("no {count} replies in a row within {timeout:?}: {}", self.stats())
    }

    /// Stops sending, waits for outstanding replies, and returns the results.
    pub fn stop(self) -> PingStats {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all requests of a limited series are sent and answered, and returns the results.
    /// An unlimited series is stopped.
    pub fn finish(mut self) -> PingStats {
        if self.endless {
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.join();
        self.shared.record().stats(true)
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.abandoned.store(true, Ordering::Relaxed);
        self.join();
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Outstanding replies are not waited for.
    abandoned: AtomicBool,
    record: Mutex<stats::Record>,
    changed: Condvar,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, stats::Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, now: Instant, result: std::io::Result<()>) {
        self.record().sent(now, result);
    }

    fn answered(&self, sequence: u64, now: Instant) {
        self.record().answered(sequence, now);
        self.changed.notify_all();
    }

    fn all_answered(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || self.record().outstanding() == 0
    }
}

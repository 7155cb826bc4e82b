//! The thread that reads packets from the TUN devices and writes them back at their due times.

use std::io::IoSlice;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cframe_edge::host::tun::{Tun, is_gone};
use cframe_packet::coalesce::Coalescer;
use cframe_packet::ip::Packet;
use cframe_packet::split::Splitter;
use cframe_packet::vnet::VnetHeader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::direction::{Direction, Verdict};
use super::{WanCounters, WanPath, icmp};

/// Granularity of due times and, under load, of reads. It limits the number of wake-ups, which cost
/// more than packets. Delays of real WANs vary by more than this.
const TICK: Duration = Duration::from_micros(100);

/// Packets or super-packets read from one device before the next device's turn.
const MAX_READS: usize = 32;

/// A command from the server's thread.
pub(super) enum Command {
    /// Adds a direction with its device. Directions are numbered from 0 in the order of these
    /// commands.
    Add { name: String, tun: Tun },
    /// Sets the conditions of a direction.
    Set { number: usize, path: WanPath },
    /// Sets the router's addresses on the link that the direction's packets come from.
    Gateways { number: usize, gateways: Vec<IpAddr> },
    /// Sends back the counters of all directions in order.
    Count(Sender<Vec<WanCounters>>),
}

pub(super) struct Emulator {
    commands: Receiver<Command>,
    /// An eventfd that is written after each command.
    wake: Arc<OwnedFd>,
    start: Instant,
    lanes: Vec<Lane>,
    buffer: Vec<u8>,
}

/// One direction with its device.
struct Lane {
    name: String,
    tun: Tun,
    direction: Direction,
    gateways: Vec<IpAddr>,
    coalescer: Coalescer,
}

impl Emulator {
    pub(super) fn new(commands: Receiver<Command>, wake: Arc<OwnedFd>) -> Self {
        let buffer = vec![0; VnetHeader::LEN + usize::from(u16::MAX)];
        Self { commands, wake, start: Instant::now(), lanes: Vec::new(), buffer }
    }

    /// Runs until the sender of commands is dropped.
    pub(super) fn run(mut self) -> Result<()> {
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
            .context("setting the timer slack")?;
        while self.run_commands() {
            let mut max_reads = 0;
            for lane in &mut self.lanes {
                max_reads = lane.read(&mut self.buffer, self.start)?.max(max_reads);
            }
            for lane in &mut self.lanes {
                lane.deliver(self.start.elapsed());
            }
            if max_reads < MAX_READS {
                self.wait(max_reads > 0)?;
            }
        }
        Ok(())
    }

    /// Runs all commands that wait; false if the sender was dropped.
    fn run_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.run_command(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn run_command(&mut self, command: Command) {
        let now = self.start.elapsed();
        match command {
            Command::Add { name, tun } => {
                let direction = Direction::new(&name, WanPath::default(), now);
                let coalescer = Coalescer::new(0, tun.udp_offload);
                self.lanes.push(Lane { name, tun, direction, gateways: Vec::new(), coalescer });
            }
            Command::Set { number, path } => {
                let lane = &mut self.lanes[number];
                lane.direction.set(&lane.name, path, now);
            }
            Command::Gateways { number, gateways } => self.lanes[number].gateways = gateways,
            Command::Count(answer) => {
                let counts = self.lanes.iter().map(|lane| lane.direction.counters).collect();
                drop(answer.send(counts));
            }
        }
    }

    /// Waits for a packet, a due time or a command. If packets were `active` a moment ago, or one is
    /// due within a tick, it sleeps until the next tick without waiting for arrivals: packets are
    /// then read in batches.
    fn wait(&self, active: bool) -> Result<()> {
        let now = self.start.elapsed();
        let next = self.lanes.iter().filter_map(|lane| lane.direction.next_due()).min();
        let naps = next.is_some_and(|due| active || due <= now + TICK);
        let until = if naps { Some(next_tick(now)) } else { next.map(next_tick) };
        let timeout = until.map(|until| timespec(until.saturating_sub(now)));
        if naps {
            return poll_fds(&mut [], timeout.as_ref());
        }
        let mut fds: Vec<_> =
            self.lanes.iter().map(|lane| PollFd::new(&lane.tun, PollFlags::IN)).collect();
        fds.push(PollFd::new(&self.wake, PollFlags::IN));
        poll_fds(&mut fds, timeout.as_ref())?;
        if fds.last().is_some_and(|wake| !wake.revents().is_empty()) {
            rustix::io::read(&self.wake, &mut [0; 8]).context("reading an eventfd")?;
        }
        Ok(())
    }
}

impl Lane {
    /// Reads at most [`MAX_READS`] packets or super-packets and returns their number.
    fn read(&mut self, buffer: &mut [u8], start: Instant) -> Result<usize> {
        for count in 0..MAX_READS {
            match self.tun.read(buffer) {
                Ok(Some(len)) => self.offer_packets(start.elapsed(), &buffer[..len]),
                Ok(None) => return Ok(count),
                Err(error) if is_gone(&error) => {
                    return Err(error).with_context(|| format!("the device of {}", self.name));
                }
                Err(_) => self.direction.counters.failed += 1,
            }
        }
        Ok(MAX_READS)
    }

    /// Offers the packets of what was `read` from the device to the direction.
    fn offer_packets(&mut self, now: Duration, read: &[u8]) {
        let Some((header, bytes)) = VnetHeader::parse(read) else { return };
        let Ok(packet) = Packet::parse(bytes) else {
            self.direction.counters.failed += 1;
            return;
        };
        if !is_forwarded(&packet) {
            return;
        }
        let mut too_large = None;
        // A new splitter for each read: packets of one arena share memory, and a packet that is held
        // for long would keep that of other reads.
        let Ok(segments) = Splitter::default().split(&header, &packet, usize::MAX) else {
            self.direction.counters.failed += 1;
            return;
        };
        for segment in segments {
            if self.direction.offer(now, segment.clone()) == Verdict::TooLarge {
                too_large.get_or_insert(segment);
            }
        }
        if let Some(packet) = too_large {
            self.send_too_big(&packet);
        }
    }

    /// Sends the ICMP error about a packet that was too large, if the path has `icmp`. It is
    /// written to the device of this direction, and the router's tables lead it back to the source.
    fn send_too_big(&self, packet: &[u8]) {
        let path = self.direction.path();
        if let Some(mtu) = path.mtu.filter(|_| path.icmp)
            && let Some(answer) = icmp::too_big(packet, mtu, &self.gateways)
        {
            let header = VnetHeader::default().encode();
            // ICMP errors may get lost on any path.
            drop(self.tun.write(&[IoSlice::new(&header), IoSlice::new(&answer)]));
        }
    }

    /// Writes all packets that are due, merged into super-packets where possible.
    fn deliver(&mut self, now: Duration) {
        let Self { tun, direction, coalescer, .. } = self;
        let mut failed = 0;
        let mut write = |slices: &[IoSlice<'_>]| failed += u64::from(tun.write(slices).is_err());
        while let Some(packet) = direction.pop_due(now) {
            coalescer.push(packet, &mut write);
        }
        coalescer.flush(&mut write);
        direction.counters.failed += failed;
    }
}

/// Returns when a descriptor is ready, at the timeout, or after a signal.
fn poll_fds(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("waiting for packets"),
    }
}

/// Whether the packet is forwarded, and not one that the router's kernel sends on the device by
/// itself, such as a multicast report.
fn is_forwarded(packet: &Packet<'_>) -> bool {
    match packet.destination() {
        IpAddr::V4(to) => !to.is_multicast() && !to.is_broadcast(),
        IpAddr::V6(to) => !to.is_multicast() && !to.is_unicast_link_local(),
    }
}

/// The first tick at or after `due`.
fn next_tick(due: Duration) -> Duration {
    let ticks = due.as_nanos().div_ceil(TICK.as_nanos());
    Duration::from_nanos(u64::try_from(ticks * TICK.as_nanos()).unwrap_or(u64::MAX))
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

//! The thread that holds packets until they are due.

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

/// How often due times are looked at and, while there is much to do, arrivals. It bounds the wake-ups,
/// which cost more than packets do, and is less than any delay on a WAN is exact to.
const TICK: Duration = Duration::from_micros(100);

/// Packets or super-packets that one direction takes before the others have their turn.
const READS: usize = 32;

/// What a turn is told, between packets.
pub(super) enum Command {
    /// There is a device for a direction. Its number is how many there were before.
    Add { name: String, tun: Tun },
    /// The conditions of a direction.
    Set { number: usize, path: WanPath },
    /// The router's addresses towards where packets come from.
    Gateways { number: usize, gateways: Vec<IpAddr> },
    /// What happened, by number.
    Count(Sender<Vec<WanCounters>>),
}

pub(super) struct Emulator {
    commands: Receiver<Command>,
    /// An eventfd that is written after a command.
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

    /// Runs until nobody can send commands any more.
    pub(super) fn run(mut self) -> Result<()> {
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
            .context("setting the timer slack")?;
        while self.obey() {
            let mut most = 0;
            for lane in &mut self.lanes {
                most = lane.read(&mut self.buffer, self.start)?.max(most);
            }
            for lane in &mut self.lanes {
                lane.deliver(self.start.elapsed());
            }
            if most < READS {
                self.wait(most > 0)?;
            }
        }
        Ok(())
    }

    /// Carries out what was commanded; false at the end.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.carry_out(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
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
                // Nobody waits for it any more: fine.
                drop(answer.send(counts));
            }
        }
    }

    /// Sleeps until a packet comes, one is due, or a command was given. After packets `came`, and when
    /// one is due soon, only until the next tick, whatever comes: it is taken then, with others.
    fn wait(&self, came: bool) -> Result<()> {
        let now = self.start.elapsed();
        let next = self.lanes.iter().filter_map(|lane| lane.direction.next_due()).min();
        let naps = next.is_some_and(|due| came || due <= now + TICK);
        let until = if naps { Some(on_tick(now)) } else { next.map(on_tick) };
        let timeout = until.map(|until| timespec(until.saturating_sub(now)));
        if naps {
            return sleep(&mut [], timeout.as_ref());
        }
        let mut fds: Vec<_> =
            self.lanes.iter().map(|lane| PollFd::new(&lane.tun, PollFlags::IN)).collect();
        fds.push(PollFd::new(&self.wake, PollFlags::IN));
        sleep(&mut fds, timeout.as_ref())?;
        if fds.last().is_some_and(|wake| !wake.revents().is_empty()) {
            rustix::io::read(&self.wake, &mut [0; 8]).context("reading an eventfd")?;
        }
        Ok(())
    }
}

impl Lane {
    /// Takes what came, but not more than its share; returns how much that was.
    fn read(&mut self, buffer: &mut [u8], start: Instant) -> Result<usize> {
        for count in 0..READS {
            match self.tun.read(buffer) {
                Ok(Some(len)) => self.take(start.elapsed(), &buffer[..len]),
                Ok(None) => return Ok(count),
                Err(error) if is_gone(&error) => {
                    return Err(error).with_context(|| format!("the device of {}", self.name));
                }
                Err(_) => self.direction.counters.failed += 1,
            }
        }
        Ok(READS)
    }

    fn take(&mut self, now: Duration, read: &[u8]) {
        let Some((header, bytes)) = VnetHeader::parse(read) else { return };
        let Ok(packet) = Packet::parse(bytes) else {
            self.direction.counters.failed += 1;
            return;
        };
        if !is_forwarded(&packet) {
            return;
        }
        let mut too_large = None;
        // What waits here for long would hold the memory of what came with it.
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
            self.answer(&packet);
        }
    }

    /// Says that a packet was too large, if that is asked for. The answer goes through the device of
    /// this direction, but it is for the source: the router's own tables lead there.
    fn answer(&self, packet: &[u8]) {
        let path = self.direction.path();
        if let Some(mtu) = path.mtu.filter(|_| path.icmp)
            && let Some(answer) = icmp::too_big(packet, mtu, &self.gateways)
        {
            let header = VnetHeader::default().encode();
            // An answer that gets lost is no news to a sender of UDP or TCP.
            drop(self.tun.write(&[IoSlice::new(&header), IoSlice::new(&answer)]));
        }
    }

    /// Sends on what is due, merged where that gives the same packets.
    fn deliver(&mut self, now: Duration) {
        let Self { tun, direction, coalescer, .. } = self;
        let mut failed = 0;
        let mut write = |slices: &[IoSlice<'_>]| failed += u64::from(tun.write(slices).is_err());
        while let Some(packet) = direction.due(now) {
            coalescer.push(packet, &mut write);
        }
        coalescer.flush(&mut write);
        direction.counters.failed += failed;
    }
}

/// Until one is ready, the time is over, or a signal came.
fn sleep(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<()> {
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("waiting for packets"),
    }
}

/// Whether the router sent it there for someone. Of itself it says things to its neighbours, such as
/// multicast reports, which are no packets of the path.
fn is_forwarded(packet: &Packet<'_>) -> bool {
    match packet.destination() {
        IpAddr::V4(to) => !to.is_multicast() && !to.is_broadcast(),
        IpAddr::V6(to) => !to.is_multicast() && !to.is_unicast_link_local(),
    }
}

/// The tick that `due` is in the past at.
fn on_tick(due: Duration) -> Duration {
    let ticks = due.as_nanos().div_ceil(TICK.as_nanos());
    Duration::from_nanos(u64::try_from(ticks * TICK.as_nanos()).unwrap_or(u64::MAX))
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

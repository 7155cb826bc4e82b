//! The data plane's loop. One turn: wait, execute commands, receive, write to the TUN, read from it,
//! transmit.

use std::{
    io::{self, IoSlice},
    num::NonZeroU64,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use cframe_mesh::{EcnCodepoint, Mesh, Received, SendError, Transmit};
use cframe_pki::verifier::{Refusal, Trust};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::sync::mpsc::{Sender, error::TrySendError};
use tracing::{debug, error};

use super::{
    Command, DriverEvent, MeshChange, MeshStatus, moderator::Moderator, probes::Watcher,
    receive::Receiver,
};
use crate::host::{
    socket::Socket,
    tun::{self, Tun},
};

/// Calls to receive per turn: the TUN must get its turn as well.
const MAX_RECEIVES: usize = 8;

/// Reads of the TUN per turn, and their bytes: the socket must get its turn as well, and what was read
/// should still be in the CPU's cache when it is sent.
const MAX_TUN_READS: usize = 256;
const MAX_TUN_BYTES: usize = 1 << 20;

/// Datagrams in one batch: 44 of 1,452 bytes are just under UDP's limit of 65,507.
const MAX_SEGMENTS: usize = 44;

/// `virtio_net_hdr` and the largest super-packet, in bytes.
const FRAME_LEN: usize = tun::HEADER_LEN + 65_535;

/// The core needs the wall clock once a second, so the loop sleeps no longer than this.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How long links may take to say goodbye.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Packets or batches that were dropped outside the core, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Larger than a device on the path allows (`EMSGSIZE`): normal for probes of path MTU discovery.
    pub udp_too_large: u64,
    /// No route (`ENETUNREACH`, `EHOSTUNREACH`).
    pub udp_unreachable: u64,
    /// Blocked by a firewall of this host (`EPERM`, `EACCES`).
    pub udp_not_permitted: u64,
    /// No room in the kernel or in the device's queue (`ENOBUFS`, `ENOMEM`).
    pub udp_no_buffers: u64,
    /// Other errors while sending.
    pub udp_send_error: u64,
    pub udp_receive_error: u64,
    /// Dropped by the socket: more arrived than this host could handle.
    pub udp_overflow: u64,
    pub tun_write_error: u64,
    pub tun_read_error: u64,
    /// Packets for the TUN while there was none.
    pub tun_missing: u64,
}

impl HostCounters {
    /// Names and counts, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("udp_too_large", self.udp_too_large),
            ("udp_unreachable", self.udp_unreachable),
            ("udp_not_permitted", self.udp_not_permitted),
            ("udp_no_buffers", self.udp_no_buffers),
            ("udp_send_error", self.udp_send_error),
            ("udp_receive_error", self.udp_receive_error),
            ("udp_overflow", self.udp_overflow),
            ("tun_write_error", self.tun_write_error),
            ("tun_read_error", self.tun_read_error),
            ("tun_missing", self.tun_missing),
        ]
        .into_iter()
    }
}

pub(super) struct Loop {
    mesh: Mesh,
    socket: Socket,
    tun: Option<Tun>,
    trust: Trust,
    channels: Channels,
    receiver: Receiver,
    /// One packet or super-packet of the TUN.
    frame: Box<[u8]>,
    outgoing: Outgoing,
    counters: HostCounters,
    /// When the core last got the wall clock.
    clock_set: Option<Instant>,
    /// When to stop at the latest, after a shutdown command.
    stop: Option<Instant>,
    moderator: Moderator,
}

/// To and from the rest of the process.
pub(super) struct Channels {
    pub(super) commands: mpsc::Receiver<Command>,
    /// An eventfd that is readable when there are commands.
    pub(super) wake: Arc<OwnedFd>,
    pub(super) events: Sender<DriverEvent>,
    /// Recognises packets with which this process measures the host.
    pub(super) probes: Watcher,
}

/// The batch that is being sent.
struct Outgoing {
    batch: Vec<u8>,
    /// How to send the batch, while the socket has no room for it.
    pending: Option<Transmit>,
}

/// What is ready to be handled.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    socket: bool,
    tun: bool,
    commands: bool,
}

impl Loop {
    pub(super) fn new(mesh: Mesh, socket: Socket, trust: Trust, channels: Channels) -> Self {
        Self {
            mesh,
            socket,
            tun: None,
            trust,
            channels,
            receiver: Receiver::new(),
            frame: vec![0; FRAME_LEN].into_boxed_slice(),
            outgoing: Outgoing { batch: Vec::with_capacity(64 << 10), pending: None },
            counters: HostCounters::default(),
            clock_set: None,
            stop: None,
            moderator: Moderator::new(Instant::now()),
        }
    }

    /// Runs until a shutdown command, or until the other end of the channel is dropped.
    pub(super) fn run(mut self) {
        // QUIC's pacing and loss detection set timers of microseconds.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            debug!(%error, "timer slack not set");
        }
        while !self.turn() {}
    }

    /// Returns whether it was the last turn.
    fn turn(&mut self) -> bool {
        let ready = match self.wait() {
            Ok(ready) => ready,
            Err(error) => {
                // An invalid descriptor or no memory: the process cannot go on.
                error!(%error, "poll failed");
                return true;
            }
        };
        let now = Instant::now();
        self.update_clock(now);
        if ready.commands && self.execute_commands(now) {
            return true;
        }
        // Packets written to the TUN are often answered at once, such as data by acknowledgements.
        let written = ready.socket && self.receive_all(now);
        if ready.tun || written {
            self.read_tun(now);
        }
        if self.mesh.poll_timeout().is_some_and(|at| at <= now) {
            self.mesh.handle_timeout(now);
            self.flush_tun();
        }
        // A fresh time: round trips are measured from here, and the turn may have taken long.
        self.transmit(Instant::now());
        self.send_events();
        let Self { moderator, mesh, .. } = self;
        moderator.record_turn(now, mesh.counters().carried(), || mesh.shortest_rtt());
        match self.stop {
            Some(deadline) => self.outgoing.pending.is_none() || now >= deadline,
            None => false,
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        if let Some(nap) = self.moderator.nap()
            && let Ok(nap) = Timespec::try_from(nap)
        {
            // A signal may end it early, which does no harm.
            let _ = rustix::thread::nanosleep(&nap);
        }
        let write = match self.outgoing.pending {
            Some(_) => PollFlags::OUT,
            None => PollFlags::empty(),
        };
        let wake = self.channels.wake.as_fd();
        // Without a TUN, another descriptor takes its place in the array.
        let tun = self.tun.as_ref().map_or(wake, AsFd::as_fd);
        let mut fds = [
            PollFd::new(&self.socket, PollFlags::IN | write),
            PollFd::from_borrowed_fd(tun, PollFlags::IN),
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
        ];
        let now = Instant::now();
        let until =
            self.mesh.poll_timeout().map_or(CLOCK_INTERVAL, |at| at.saturating_duration_since(now));
        let timeout = Timespec::try_from(until.min(CLOCK_INTERVAL)).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [socket, tun, commands] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready { socket, tun: tun && self.tun.is_some(), commands })
    }

    /// Returns whether to end at once.
    fn execute_commands(&mut self, now: Instant) -> bool {
        // Read before the channel is, so that a command that arrives in between wakes the loop again.
        let _ = rustix::io::read(&self.channels.wake, &mut [0; 8]);
        loop {
            match self.channels.commands.try_recv() {
                Ok(command) => self.execute(now, command),
                Err(mpsc::TryRecvError::Empty) => return false,
                Err(mpsc::TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn execute(&mut self, now: Instant, command: Command) {
        match command {
            Command::Apply(changes, done) => {
                changes.into_iter().for_each(|change| self.apply(now, change));
                let _ = done.send(());
            }
            Command::Recheck => {
                let trust = &self.trust;
                self.mesh.recheck(now, &mut |peer| {
                    matches!(trust.denial(peer), Ok(()) | Err(Refusal::RootRemoved))
                });
                self.mesh.replace_links(now, &mut |peer| trust.denial(peer).is_err());
            }
            Command::AddressChanged => self.mesh.local_address_changed(now),
            Command::CredentialsRenewed => self.mesh.credentials_renewed(now),
            Command::Tun(tun) => self.tun = tun,
            Command::Status(reply) => {
                let _ = reply.send(self.status(now));
            }
            Command::Inject(packets) => self.inject(&packets),
            Command::Shutdown => {
                self.mesh.shutdown(now);
                self.stop = Some(now + SHUTDOWN_TIMEOUT);
            }
        }
    }

    /// Errors are those of single packets: what does not come back counts as lost.
    fn inject(&self, packets: &[Vec<u8>]) {
        let header = [0; tun::HEADER_LEN];
        for packet in packets {
            if let Some(tun) = &self.tun {
                let _ = tun.write(&[IoSlice::new(&header), IoSlice::new(packet)]);
            }
        }
    }

    fn apply(&mut self, now: Instant, change: MeshChange) {
        match change {
            MeshChange::Peer { name, addresses } => self.mesh.set_peer(now, &name, addresses),
            MeshChange::PeerGone(name) => self.mesh.remove_peer(now, &name),
            MeshChange::Prefix { net, owner } => self.mesh.set_prefix(net, &owner),
            MeshChange::PrefixGone(net) => self.mesh.remove_prefix(&net),
            MeshChange::TunMtu(mtu) => self.mesh.set_tun_mtu(mtu),
            MeshChange::Congestion(congestion) => self.mesh.set_congestion(congestion),
        }
    }

    fn status(&self, now: Instant) -> MeshStatus {
        MeshStatus {
            now,
            links: self.mesh.links().collect(),
            counters: self.mesh.counters().clone(),
            host: HostCounters { udp_overflow: self.socket.overflowed(), ..self.counters },
            tun: self.tun.is_some(),
        }
    }

    /// Receives, several times if the datagrams are small. Returns whether anything was written to the
    /// TUN.
    fn receive_all(&mut self, now: Instant) -> bool {
        let mut written = false;
        for _ in 0..MAX_RECEIVES {
            written |= self.receive(now);
            if !self.receiver.may_continue() {
                break;
            }
        }
        written
    }

    fn receive(&mut self, now: Instant) -> bool {
        let count = match self.receiver.receive(&self.socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.counters.udp_receive_error += 1;
                0
            }
        };
        let mut out = Out::new(&self.tun, &mut self.counters);
        for index in 0..count {
            let (meta, data) = self.receiver.take(index);
            if self.channels.probes.takes_datagram(meta.addr, &data) {
                continue;
            }
            let from = Received {
                remote: meta.addr,
                local_ip: meta.dst_ip,
                ecn: meta.ecn.map(from_udp),
                stride: meta.stride,
            };
            self.mesh.handle_datagrams(now, &from, data, &mut |packet| out.write(packet));
        }
        self.mesh.flush_tun(&mut |packet| out.write(packet));
        let Out { gone, written, .. } = out;
        if gone {
            self.lose_tun();
        }
        written
    }

    fn flush_tun(&mut self) {
        let mut out = Out::new(&self.tun, &mut self.counters);
        self.mesh.flush_tun(&mut |packet| out.write(packet));
        if out.gone {
            self.lose_tun();
        }
    }

    fn read_tun(&mut self, now: Instant) {
        let mut bytes = 0;
        for _ in 0..MAX_TUN_READS {
            let Some(tun) = self.tun.as_ref().filter(|_| bytes < MAX_TUN_BYTES) else { return };
            match tun.read(&mut self.frame) {
                Ok(Some(len)) => {
                    bytes += len;
                    let packet = self.frame.get(tun::HEADER_LEN..len).unwrap_or_default();
                    if !self.channels.probes.takes_packet(packet) {
                        self.mesh.handle_tun(now, &self.frame[..len]);
                    }
                }
                Ok(None) => return,
                Err(error) if tun::is_gone(&error) => return self.lose_tun(),
                Err(_) => {
                    self.counters.tun_read_error += 1;
                    return;
                }
            }
        }
    }

    fn lose_tun(&mut self) {
        self.tun = None;
        self.send_event(DriverEvent::TunGone);
    }

    /// Sends until nothing is left, or until the socket has no room.
    fn transmit(&mut self, now: Instant) {
        if let Some(transmit) = self.outgoing.pending.take()
            && !self.send(&transmit)
        {
            self.outgoing.pending = Some(transmit);
            return;
        }
        let segments = self.socket.max_segments().min(MAX_SEGMENTS);
        while let Some(transmit) = self.mesh.poll_transmit(now, segments, &mut self.outgoing.batch)
        {
            if !self.send(&transmit) {
                self.outgoing.pending = Some(transmit);
                return;
            }
        }
    }

    /// Sends the batch. Returns whether it is done with, sent or dropped; otherwise the socket has no
    /// room for it.
    fn send(&mut self, transmit: &Transmit) -> bool {
        let result = self.socket.send(&quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(to_udp),
            contents: &self.outgoing.batch[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        });
        let Err(error) = result else { return true };
        let errno = Errno::from_io_error(&error);
        if let Some(error) = errno.and_then(send_error) {
            self.mesh.handle_send_error(transmit.destination, error);
        }
        let counter = match errno {
            Some(Errno::AGAIN) => return false,
            Some(Errno::MSGSIZE) => &mut self.counters.udp_too_large,
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL) => {
                &mut self.counters.udp_unreachable
            }
            Some(Errno::PERM | Errno::ACCESS) => &mut self.counters.udp_not_permitted,
            Some(Errno::NOBUFS | Errno::NOMEM) => &mut self.counters.udp_no_buffers,
            _ => &mut self.counters.udp_send_error,
        };
        *counter += 1;
        true
    }

    fn update_clock(&mut self, now: Instant) {
        if self.clock_set.is_none_or(|at| now >= at + CLOCK_INTERVAL)
            && let Ok(unix) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)
        {
            self.clock_set = Some(now);
            self.mesh.set_wall_clock(now, unix);
        }
    }

    fn send_events(&mut self) {
        while let Some(event) = self.mesh.poll_event() {
            self.send_event(DriverEvent::Mesh(event));
        }
    }

    fn send_event(&self, event: DriverEvent) {
        // Nothing depends on an event, except on `TunGone`, which netlink reports as well.
        if let Err(TrySendError::Full(event)) = self.channels.events.try_send(event) {
            debug!(?event, "event dropped: too many at a time");
        }
    }
}

/// Writes to the TUN, if there is one, and counts what cannot be written.
struct Out<'a> {
    tun: &'a Option<Tun>,
    counters: &'a mut HostCounters,
    gone: bool,
    written: bool,
}

impl<'a> Out<'a> {
    fn new(tun: &'a Option<Tun>, counters: &'a mut HostCounters) -> Self {
        Self { tun, counters, gone: false, written: false }
    }

    fn write(&mut self, packet: &[IoSlice<'_>]) {
        let Some(tun) = self.tun.as_ref().filter(|_| !self.gone) else {
            self.counters.tun_missing += 1;
            return;
        };
        self.written = true;
        if let Err(error) = tun.write(packet) {
            self.gone = tun::is_gone(&error);
            self.counters.tun_write_error += 1;
        }
    }
}

/// What the core learns of an error.
fn send_error(errno: Errno) -> Option<SendError> {
    match errno {
        Errno::MSGSIZE => Some(SendError::TooLarge),
        Errno::NETUNREACH | Errno::HOSTUNREACH => Some(SendError::Unreachable),
        Errno::PERM | Errno::ACCESS => Some(SendError::NotPermitted),
        _ => None,
    }
}

fn from_udp(ecn: quinn_udp::EcnCodepoint) -> EcnCodepoint {
    match ecn {
        quinn_udp::EcnCodepoint::Ect0 => EcnCodepoint::Ect0,
        quinn_udp::EcnCodepoint::Ect1 => EcnCodepoint::Ect1,
        quinn_udp::EcnCodepoint::Ce => EcnCodepoint::Ce,
    }
}

fn to_udp(ecn: EcnCodepoint) -> quinn_udp::EcnCodepoint {
    match ecn {
        EcnCodepoint::Ect0 => quinn_udp::EcnCodepoint::Ect0,
        EcnCodepoint::Ect1 => quinn_udp::EcnCodepoint::Ect1,
        EcnCodepoint::Ce => quinn_udp::EcnCodepoint::Ce,
    }
}

//! The loop. One turn: wait, take commands, receive, write to the TUN, read from it, transmit.

use std::{
    io::{self, IoSlice},
    num::NonZeroU64,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use cframe_mesh::{EcnCodepoint, Mesh, Received, Transmit};
use cframe_pki::verifier::{Refusal, Trust};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::sync::mpsc::{Sender, error::TrySendError};
use tracing::{debug, error};

use super::{
    Command, DriverEvent, MeshChange, MeshStatus, moderator::Moderator, receive::Receiver,
};
use crate::host::{
    socket::Socket,
    tun::{self, Tun},
};

/// Calls to receive in a turn; more wait for the next, so that the TUN has its turn too.
const RECEIVES: usize = 8;

/// Reads of the TUN in a turn, and their bytes; more wait for the next, so that the socket has its
/// turn too, and so that what was read is still in the processor's cache when it is sent.
const TUN_READS: usize = 256;
const TUN_BYTES: usize = 1 << 20;

/// Datagrams in a batch: 44 of 1,452 bytes near UDP's 65,507.
const MAX_SEGMENTS: usize = 44;

/// `virtio_net_hdr` and the largest super-packet.
const FRAME: usize = tun::HEADER_LEN + 65_535;

/// The longest sleep: the wall clock is told once a second.
const NAP: Duration = Duration::from_secs(1);

/// How long links may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// What went wrong outside the core, in packets or batches, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Larger than a device on the way takes (`EMSGSIZE`): path MTU discovery tries and finds out.
    pub udp_too_large: u64,
    /// No route (`ENETUNREACH`, `EHOSTUNREACH`).
    pub udp_unreachable: u64,
    /// A firewall of this host (`EPERM`, `EACCES`).
    pub udp_not_permitted: u64,
    /// No memory in the kernel or the device's queue (`ENOBUFS`, `ENOMEM`).
    pub udp_no_buffers: u64,
    /// Other refusals to send.
    pub udp_send: u64,
    /// Refusals to receive.
    pub udp_receive: u64,
    /// Lost in the socket: more came than this host could take.
    pub udp_overflow: u64,
    /// Packets that the kernel did not take from us.
    pub tun_write: u64,
    /// Refusals to read from the TUN.
    pub tun_read: u64,
    /// Packets for a TUN that isn't there.
    pub tun_gone: u64,
}

impl HostCounters {
    /// Each with its name, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("udp_too_large", self.udp_too_large),
            ("udp_unreachable", self.udp_unreachable),
            ("udp_not_permitted", self.udp_not_permitted),
            ("udp_no_buffers", self.udp_no_buffers),
            ("udp_send", self.udp_send),
            ("udp_receive", self.udp_receive),
            ("udp_overflow", self.udp_overflow),
            ("tun_write", self.tun_write),
            ("tun_read", self.tun_read),
            ("tun_gone", self.tun_gone),
        ]
        .into_iter()
    }
}

pub(super) struct Loop {
    mesh: Mesh,
    socket: Socket,
    tun: Option<Tun>,
    trust: Trust,
    commands: mpsc::Receiver<Command>,
    wake: Arc<OwnedFd>,
    events: Sender<DriverEvent>,
    receiver: Receiver,
    frame: Box<[u8]>,
    /// What `pending` describes, if there is one.
    batch: Vec<u8>,
    /// What the socket had no room for.
    pending: Option<Transmit>,
    counters: HostCounters,
    clock_told: Option<Instant>,
    stop: Option<Instant>,
    moderator: Moderator,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    socket: bool,
    tun: bool,
    commands: bool,
}

impl Loop {
    pub(super) fn new(
        mesh: Mesh,
        socket: Socket,
        trust: Trust,
        commands: mpsc::Receiver<Command>,
        wake: Arc<OwnedFd>,
        events: Sender<DriverEvent>,
    ) -> Self {
        Self {
            mesh,
            socket,
            tun: None,
            trust,
            commands,
            wake,
            events,
            receiver: Receiver::new(),
            frame: vec![0; FRAME].into_boxed_slice(),
            batch: Vec::with_capacity(64 << 10),
            pending: None,
            counters: HostCounters::default(),
            clock_told: None,
            stop: None,
            moderator: Moderator::new(Instant::now()),
        }
    }

    /// Turns until it is told to stop, or until nobody is there to tell it anything.
    pub(super) fn run(mut self) {
        // Timers of microseconds are what QUIC's pacing and loss detection set.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            debug!(%error, "timer slack not set");
        }
        while !self.turn() {}
    }

    fn turn(&mut self) -> bool {
        let ready = match self.wait() {
            Ok(ready) => ready,
            Err(error) => {
                // Only a descriptor that isn't one, or no memory: both end the program.
                error!(%error, "poll failed");
                return true;
            }
        };
        let now = Instant::now();
        self.tell_clock(now);
        if ready.commands && self.take_commands(now) {
            return true;
        }
        // What is written to the TUN is often answered at once, as data by acknowledgements.
        let written = ready.socket && self.receive_all(now);
        if ready.tun || written {
            self.read_tun(now);
        }
        if self.mesh.poll_timeout().is_some_and(|at| at <= now) {
            self.mesh.handle_timeout(now);
            self.flush_tun();
        }
        // Much may have been done since: round trips are measured from here.
        self.transmit(Instant::now());
        self.tell_events();
        let Self { moderator, mesh, .. } = self;
        moderator.turned(now, mesh.counters().carried(), || mesh.shortest_rtt());
        match self.stop {
            Some(deadline) => self.pending.is_none() || now >= deadline,
            None => false,
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        if let Some(nap) = self.moderator.nap()
            && let Ok(nap) = Timespec::try_from(nap)
        {
            // A signal ends it early, which does no harm.
            let _ = rustix::thread::nanosleep(&nap);
        }
        let write = match self.pending {
            Some(_) => PollFlags::OUT,
            None => PollFlags::empty(),
        };
        // Without a TUN its place is taken by a descriptor that is there anyway.
        let tun = self.tun.as_ref().map_or(self.wake.as_fd(), AsFd::as_fd);
        let mut fds = [
            PollFd::new(&self.socket, PollFlags::IN | write),
            PollFd::from_borrowed_fd(tun, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        let now = Instant::now();
        let until = self.mesh.poll_timeout().map_or(NAP, |at| at.saturating_duration_since(now));
        let timeout = Timespec::try_from(until.min(NAP)).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [socket, tun, commands] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready { socket, tun: tun && self.tun.is_some(), commands })
    }

    /// Says whether to end at once.
    fn take_commands(&mut self, now: Instant) -> bool {
        // Emptied before the channel, so that what comes in between wakes us again.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.command(now, command),
                Err(mpsc::TryRecvError::Empty) => return false,
                Err(mpsc::TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
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
            Command::Shutdown => {
                self.mesh.shutdown(now);
                self.stop = Some(now + FAREWELL);
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

    /// Receives, several times if what comes is little work each; says whether anything was written to
    /// the TUN.
    fn receive_all(&mut self, now: Instant) -> bool {
        let mut written = false;
        for _ in 0..RECEIVES {
            written |= self.receive(now);
            if !self.receiver.may_go_on() {
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
                self.counters.udp_receive += 1;
                0
            }
        };
        let mut out = Out::new(&self.tun, &mut self.counters);
        for index in 0..count {
            let (meta, data) = self.receiver.take(index);
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
        for _ in 0..TUN_READS {
            let Some(tun) = self.tun.as_ref().filter(|_| bytes < TUN_BYTES) else { return };
            match tun.read(&mut self.frame) {
                Ok(Some(len)) => {
                    self.mesh.handle_tun(now, &self.frame[..len]);
                    bytes += len;
                }
                Ok(None) => return,
                Err(error) if tun::is_gone(&error) => return self.lose_tun(),
                Err(_) => {
                    self.counters.tun_read += 1;
                    return;
                }
            }
        }
    }

    fn lose_tun(&mut self) {
        self.tun = None;
        self.tell(DriverEvent::TunGone);
    }

    /// Sends until there is nothing more, or no more room.
    fn transmit(&mut self, now: Instant) {
        if let Some(transmit) = self.pending.take()
            && !self.send(&transmit)
        {
            self.pending = Some(transmit);
            return;
        }
        let segments = self.socket.max_segments().min(MAX_SEGMENTS);
        while let Some(transmit) = self.mesh.poll_transmit(now, segments, &mut self.batch) {
            if !self.send(&transmit) {
                self.pending = Some(transmit);
                return;
            }
        }
    }

    /// Sends what is in `batch`; says whether it is done with, one way or the other.
    fn send(&mut self, transmit: &Transmit) -> bool {
        let result = self.socket.send(&quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(to_udp),
            contents: &self.batch[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        });
        let Err(error) = result else { return true };
        let counter = match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => return false,
            Some(Errno::MSGSIZE) => &mut self.counters.udp_too_large,
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL) => {
                &mut self.counters.udp_unreachable
            }
            Some(Errno::PERM | Errno::ACCESS) => &mut self.counters.udp_not_permitted,
            Some(Errno::NOBUFS | Errno::NOMEM) => &mut self.counters.udp_no_buffers,
            _ => &mut self.counters.udp_send,
        };
        *counter += 1;
        true
    }

    fn tell_clock(&mut self, now: Instant) {
        if self.clock_told.is_none_or(|at| now >= at + NAP)
            && let Ok(unix) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)
        {
            self.clock_told = Some(now);
            self.mesh.set_wall_clock(now, unix);
        }
    }

    fn tell_events(&mut self) {
        while let Some(event) = self.mesh.poll_event() {
            self.tell(DriverEvent::Mesh(event));
        }
    }

    fn tell(&self, event: DriverEvent) {
        // Events are for people, except `TunGone`, which netlink tells as well.
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            debug!(?event, "event not told: too many at a time");
        }
    }
}

/// Writes to the TUN that is there, and counts what it doesn't take.
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
            self.counters.tun_gone += 1;
            return;
        };
        self.written = true;
        if let Err(error) = tun.write(packet) {
            self.gone = tun::is_gone(&error);
            self.counters.tun_write += 1;
        }
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

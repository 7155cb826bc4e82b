//! The data plane's thread: the core, the socket, the TUN and one loop. Nothing else runs on it, and
//! nothing of its tables is shared.

mod moderator;
mod receive;
mod turn;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use cframe_mesh::{Congestion, Counters, Event, LinkStatus, Mesh};
use cframe_pki::{identity::Label, verifier::Trust};
use ipnet::IpNet;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use super::{socket::Socket, tun::Tun};
pub use turn::HostCounters;

/// Events that wait for the rest of the program.
const BACKLOG: usize = 1024;

/// A handle on the thread.
#[derive(Debug)]
pub struct Driver {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// One change of the core's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshChange {
    /// A peer is new, or is reached elsewhere.
    Peer {
        /// Its name.
        name: Label,
        /// Where to dial it; empty: it dials us.
        addresses: Vec<std::net::SocketAddr>,
    },
    /// A peer is gone.
    PeerGone(Label),
    /// A prefix is new, or is another's now.
    Prefix {
        /// The prefix.
        net: IpNet,
        /// Its edge.
        owner: Label,
    },
    /// A prefix is gone.
    PrefixGone(IpNet),
    /// The TUN's MTU in bytes.
    TunMtu(u16),
    /// For links made from now on.
    Congestion(Congestion),
}

/// What the thread is told.
enum Command {
    Apply(Vec<MeshChange>, oneshot::Sender<()>),
    Recheck,
    AddressChanged,
    CredentialsRenewed,
    Tun(Option<Tun>),
    Status(oneshot::Sender<MeshStatus>),
    Shutdown,
}

/// What the thread tells.
#[derive(Debug)]
pub enum DriverEvent {
    /// Of a link.
    Mesh(Event),
    /// The TUN device was removed from under us.
    TunGone,
}

/// A look into the thread.
#[derive(Debug)]
pub struct MeshStatus {
    /// When.
    pub now: std::time::Instant,
    /// The links, up and down.
    pub links: Vec<LinkStatus>,
    /// The core's counters.
    pub counters: Counters,
    /// The loop's own.
    pub host: HostCounters,
    /// Whether there is a TUN device.
    pub tun: bool,
}

impl Driver {
    /// Starts the thread. Its events end when it does.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(
        mesh: Mesh,
        socket: Socket,
        trust: Trust,
    ) -> io::Result<(Self, tokio::sync::mpsc::Receiver<DriverEvent>)> {
        let (commands, receiver) = mpsc::channel();
        let (events, told) = tokio::sync::mpsc::channel(BACKLOG);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let turner = turn::Loop::new(mesh, socket, trust, receiver, Arc::clone(&wake), events);
        let thread =
            std::thread::Builder::new().name("mesh".to_owned()).spawn(move || turner.run())?;
        Ok((Self { commands, wake, thread: Some(thread) }, told))
    }

    /// Changes the tables, all between two turns; returns when that is done.
    pub async fn apply(&self, changes: Vec<MeshChange>) {
        let (done, answer) = oneshot::channel();
        self.send(Command::Apply(changes, done));
        // Without an answer the thread has ended, which its events say too.
        let _ = answer.await;
    }

    /// Asks every standing link's peer against the trust as it is now.
    pub fn recheck(&self) {
        self.send(Command::Recheck);
    }

    /// The underlay address changed.
    pub fn address_changed(&self) {
        self.send(Command::AddressChanged);
    }

    /// Our certificate was renewed.
    pub fn credentials_renewed(&self) {
        self.send(Command::CredentialsRenewed);
    }

    /// Reads and writes another device from now on, or none.
    pub fn set_tun(&self, tun: Option<Tun>) {
        self.send(Command::Tun(tun));
    }

    /// Looks into the thread; `None` if it has ended.
    pub async fn status(&self) -> Option<MeshStatus> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Status(reply));
        answer.await.ok()
    }

    /// Closes all links, says so to the peers, and waits for the thread's end, at most for a second.
    ///
    /// # Panics
    /// With the thread's own panic, if it ended by one.
    pub fn shutdown(mut self) {
        self.send(Command::Shutdown);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }

    fn send(&self, command: Command) {
        // A thread that has ended says so by its events.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

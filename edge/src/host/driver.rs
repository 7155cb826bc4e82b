//! The data plane's thread: the core, the socket, the TUN and one loop. Nothing else runs on it, and
//! its tables are not shared.

mod moderator;
pub mod probes;
mod receive;
mod turn;

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Instant,
};

use cframe_mesh::{Congestion, Counters, Event, LinkStatus, Mesh};
use cframe_pki::{identity::Label, verifier::Trust};
use ipnet::IpNet;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use super::{socket::Socket, tun::Tun};
use probes::{Injector, Watcher};
pub use turn::HostCounters;
use turn::{Channels, Loop};

/// Events that wait for the process.
const BACKLOG: usize = 1024;

/// A handle to the thread.
#[derive(Debug)]
pub struct Driver {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// A change of the core's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshChange {
    /// A peer is new, or has other addresses.
    Peer {
        name: Label,
        /// Where to dial the peer; empty if the peer has to dial.
        addresses: Vec<SocketAddr>,
    },
    PeerGone(Label),
    /// A prefix is new, or has another owner.
    Prefix {
        net: IpNet,
        owner: Label,
    },
    PrefixGone(IpNet),
    /// The TUN's MTU in bytes.
    TunMtu(u16),
    /// Applies to new links.
    Congestion(Congestion),
}

enum Command {
    Apply(Vec<MeshChange>, oneshot::Sender<()>),
    Recheck,
    AddressChanged,
    CredentialsRenewed,
    Tun(Option<Tun>),
    Status(oneshot::Sender<MeshStatus>),
    /// Packets that are written into the TUN as if they came from the mesh.
    Inject(Vec<Vec<u8>>),
    Shutdown,
}

#[derive(Debug)]
pub enum DriverEvent {
    Mesh(Event),
    /// The TUN device was removed by another program.
    TunGone,
}

/// The state of the thread at one moment.
#[derive(Debug)]
pub struct MeshStatus {
    pub now: Instant,
    /// All links, up and down.
    pub links: Vec<LinkStatus>,
    pub counters: Counters,
    pub host: HostCounters,
    /// Whether there is a TUN device.
    pub tun: bool,
}

impl MeshStatus {
    /// Packets that were dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counters.dropped().chain(self.host.iter())
    }
}

impl Driver {
    /// Starts the thread. The channel of events closes when the thread ends.
    pub fn start(
        mesh: Mesh,
        socket: Socket,
        trust: Trust,
        probes: Watcher,
    ) -> io::Result<(Self, tokio::sync::mpsc::Receiver<DriverEvent>)> {
        let (commands, receiver) = mpsc::channel();
        let (events, event_receiver) = tokio::sync::mpsc::channel(BACKLOG);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let channels = Channels { commands: receiver, wake: Arc::clone(&wake), events, probes };
        let data_plane = Loop::new(mesh, socket, trust, channels);
        let thread =
            std::thread::Builder::new().name("mesh".to_owned()).spawn(move || data_plane.run())?;
        Ok((Self { commands, wake, thread: Some(thread) }, event_receiver))
    }

    /// Changes the tables, all of it between two turns, and waits until that is done.
    pub async fn apply(&self, changes: Vec<MeshChange>) {
        let (done, answer) = oneshot::channel();
        self.send(Command::Apply(changes, done));
        // No answer means that the thread has ended: the closed channel of events shows it.
        let _ = answer.await;
    }

    /// Checks the peers of all links against the present trust.
    pub fn recheck(&self) {
        self.send(Command::Recheck);
    }

    /// The host has other addresses on the underlay.
    pub fn address_changed(&self) {
        self.send(Command::AddressChanged);
    }

    /// The edge has a new certificate.
    pub fn credentials_renewed(&self) {
        self.send(Command::CredentialsRenewed);
    }

    /// Uses this device from now on, or none.
    pub fn set_tun(&self, tun: Option<Tun>) {
        self.send(Command::Tun(tun));
    }

    /// Writes into the TUN from other threads.
    pub fn injector(&self) -> Injector {
        Injector { commands: self.commands.clone(), wake: Arc::clone(&self.wake) }
    }

    /// `None` if the thread has ended.
    pub async fn status(&self) -> Option<MeshStatus> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Status(reply));
        answer.await.ok()
    }

    /// Closes all links with a goodbye to the peers, and waits for the end of the thread: about a second
    /// at most.
    ///
    /// # Panics
    /// When the thread has panicked.
    pub fn shutdown(mut self) {
        self.send(Command::Shutdown);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }

    fn send(&self, command: Command) {
        // If the thread has ended, the closed channel of events shows it.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

//! The session with a controller: which controllers to dial, and how the session is doing.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_protocol::{
    session::{Client, Command, DEAD_AFTER, EdgeSession, Event, SessionError},
    v1::{Desired, Endpoint},
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::status::ControllerStatus;

/// Events and commands that wait between the session's task and this process.
const BACKLOG: usize = 64;
/// The least time between two warnings that no controller can be reached.
const WARN_INTERVAL: Duration = Duration::from_secs(300);
/// A process that was refused for another one with its identity tries again sooner than this.
const IN_USE_MEMORY: Duration = Duration::from_secs(8);
/// A controller that refuses a process for another one says so sooner than this.
const ACCEPTED_AFTER: Duration = Duration::from_secs(4);
/// The session takes a second at most to say goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(1500);

#[derive(Debug)]
pub(super) struct Uplink {
    /// Controllers of the configuration, dialled besides those that the mesh names.
    configured: Vec<Endpoint>,
    client: Client,
    commands: mpsc::Sender<Command>,
    /// None until it is started.
    task: Option<JoinHandle<()>>,
    /// The controller of the session, while there is one.
    pub(super) controller: Option<SocketAddr>,
    /// Since when there is a session, or none.
    since: Instant,
    error: Option<String>,
    /// Whether the last controller refused this edge's certificate for its times.
    pub(super) refused_for_time: bool,
    /// When a controller last refused this process because another one uses the identity.
    in_use: Option<Instant>,
    /// When the absence of controllers was last logged.
    warned: Option<Instant>,
}

impl Uplink {
    /// Without a session yet. Commands wait in the channel that is returned.
    pub(super) fn new(
        client: Client,
        configured: Vec<Endpoint>,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(BACKLOG);
        let uplink = Self {
            configured,
            client,
            commands,
            task: None,
            controller: None,
            since: Instant::now(),
            error: None,
            refused_for_time: false,
            in_use: None,
            warned: None,
        };
        (uplink, receiver)
    }

    /// Starts the session's task, which ends on `cancel`. The session says which state the edge has applied, so
    /// it starts after that state is in the core and the kernel.
    pub(super) fn start(
        &mut self,
        have: Option<Arc<Desired>>,
        boot_id: [u8; 16],
        commands: mpsc::Receiver<Command>,
        cancel: &CancellationToken,
    ) -> mpsc::Receiver<Event> {
        let session =
            EdgeSession::new(self.client.clone(), have, env!("CARGO_PKG_VERSION"), boot_id);
        let (sender, events) = mpsc::channel(BACKLOG);
        self.task = Some(tokio::spawn(session.run(sender, commands, cancel.clone())));
        events
    }

    pub(super) fn is_connected(&self) -> bool {
        self.controller.is_some()
    }

    /// Whether the session has lasted longer than a silent controller is tolerated: it must have
    /// received something.
    pub(super) fn is_stable(&self) -> bool {
        self.is_connected() && self.since.elapsed() > DEAD_AFTER
    }

    pub(super) fn record_connected(&mut self, controller: SocketAddr) {
        let ip = controller.ip().to_canonical();
        self.controller = Some(SocketAddr::new(ip, controller.port()));
        self.since = Instant::now();
        self.error = None;
        self.refused_for_time = false;
        self.warned = None;
    }

    /// Records the end of a session or of an attempt; returns whether there was a session. `cut_off`:
    /// a controller has cut this edge off, so that further attempts are expected to fail.
    pub(super) fn record_disconnected(&mut self, error: &SessionError, cut_off: bool) -> bool {
        let was_connected = self.controller.take().is_some();
        if was_connected {
            self.since = Instant::now();
        }
        if cut_off {
            debug!(%error, "no session with a controller");
        } else if was_connected {
            warn!(%error, "session lost; forwarding continues");
        } else if self.warned.is_none_or(|at| at.elapsed() > WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            warn!(%error, "no session with a controller; retrying");
        }
        self.error = Some(error.to_string());
        self.refused_for_time = is_about_time(error);
        was_connected
    }

    pub(super) fn record_in_use(&mut self) {
        self.in_use = Some(Instant::now());
    }

    /// Whether another process uses this edge's identity, and keeps its session.
    pub(super) fn is_in_use(&self) -> bool {
        // A session that lasts is not refused: the other process has ended.
        let lasts = self.is_connected() && self.since.elapsed() >= ACCEPTED_AFTER;
        self.in_use.is_some_and(|at| at.elapsed() < IN_USE_MEMORY) && !lasts
    }

    /// Dials the configured controllers and these from the next attempt on. Without any, those that
    /// were dialled before stay.
    pub(super) async fn set_controllers(&mut self, known: &[Endpoint]) {
        let addresses = merge_controllers(&self.configured, known);
        if !addresses.is_empty() && addresses != self.client.addresses {
            self.client.addresses = addresses;
            self.send(Command::Client(self.client.clone())).await;
        }
    }

    pub(super) async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            // The process ends for it, by the end of the session's events.
            warn!("the control session's task has stopped");
        }
    }

    pub(super) fn status(&self, now: Instant) -> ControllerStatus {
        ControllerStatus {
            connected: self.controller,
            since_secs: now.duration_since(self.since).as_secs(),
            error: self.error.clone().filter(|_| self.controller.is_none()),
            addresses: self.client.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    /// Waits for the session's goodbye.
    pub(super) async fn finish(self) {
        if let Some(task) = self.task {
            let _ = timeout(GOODBYE_TIMEOUT, task).await;
        }
    }
}

/// Whether a controller considers this edge's certificate expired or not valid yet.
pub(super) fn is_about_time(error: &SessionError) -> bool {
    matches!(error, SessionError::CertificateRefused(alert) if alert.is_about_time())
}

/// Each controller once, in a fixed order.
pub(super) fn merge_controllers(configured: &[Endpoint], known: &[Endpoint]) -> Vec<Endpoint> {
    configured.iter().chain(known).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

//! The edge as a process: everything around the data plane, in one task.
//!
//! The tasks, each in the site's set and ended with it: netlink's two sockets and the keeper of
//! routes, the local socket, metrics, and the writer of snapshots. The session with a controller has
//! a handle of its own, because its goodbye is waited for; look-ups of names are in a set of the
//! resolver. The data plane has its thread.

mod apply;
mod boot;
mod events;
mod last_seen;
mod look;
mod refusals;
mod rejoin;
mod renew;
mod resolve;
mod save;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use cframe_pki::{
    Serial, bundle::DenyList, identity::Label, tls::LiveCredentials, verifier::Trust,
};
use cframe_protocol::{
    session::{Client, Command, Event},
    v1::Desired,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Config, Forwarding},
    host::{
        driver::{Driver, DriverEvent},
        routes::{HostEvent, Routes},
        snat,
    },
    local::Asked,
    notify::notify,
    state::{Cut, Enrolment, State},
};
use events::LinkLog;
use last_seen::LastSeen;
use refusals::Refusals;
use renew::Renewal;
use resolve::Resolver;
use save::Saver;

/// How often the controller hears how we are.
const REPORT: Duration = Duration::from_secs(10);
/// After a link has changed, at the earliest.
const REPORT_CHANGE: Duration = Duration::from_secs(1);
/// How often names are looked up again.
const RESOLVE: Duration = Duration::from_secs(60);
/// How often renewal and expiry are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// How soon a lost device is made again, if that fails at first.
const REOPEN: Duration = Duration::from_millis(300);

/// Runs the edge until `shutdown`. `reloads` brings new configurations, of which the log filter,
/// forwarding and snat count; at each, credentials that were written meanwhile are taken up too.
///
/// # Errors
/// When it cannot start, or its data plane fails.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    reloads: mpsc::Receiver<Config>,
) -> Result<()> {
    let (mut site, inputs) = boot::boot(config, reloads).await?;
    notify("READY=1");
    let result = site.serve(inputs, &shutdown).await;
    notify("STOPPING=1");
    site.stop().await;
    result
}

/// The edge's task.
pub(crate) struct Site {
    config: Config,
    state: State,
    enrolment: Enrolment,
    name: Label,
    credentials: LiveCredentials,
    trust: Trust,
    client: Client,
    session: mpsc::Sender<Command>,
    driver: Driver,
    routes: Routes,
    resolver: Resolver,
    refusals: Refusals,
    renewal: Renewal,
    saver: Saver,
    last_seen: LastSeen,
    links: LinkLog,
    /// What is applied; the empty state before the first.
    desired: Arc<Desired>,
    /// Denials of earlier epochs of the store: a restored one may have lost some.
    kept: DenyList,
    /// When a controller last confirmed it, in Unix seconds.
    confirmed: Option<u64>,
    connection: Connection,
    /// Why we are cut off from the mesh.
    cut: Option<Cut>,
    /// The certificate of another identity that was found on disk.
    another_told: Option<Serial>,
    device: Device,
    remotes: BTreeSet<IpAddr>,
    drops_told: BTreeMap<&'static str, u64>,
    snat_error: Option<String>,
    listen: u16,
    started: Instant,
    report_at: Instant,
    reported: Instant,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    talk: Option<JoinHandle<()>>,
}

fn reason(ended: Result<(), tokio::task::JoinError>) -> String {
    match ended {
        Ok(()) => "see the log".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Where what happens comes from.
pub(crate) struct Inputs {
    session: mpsc::Receiver<Event>,
    driver: mpsc::Receiver<DriverEvent>,
    host: mpsc::Receiver<HostEvent>,
    asked: mpsc::Receiver<Asked>,
    reloads: mpsc::Receiver<Config>,
}

/// The session with a controller.
#[derive(Debug)]
pub(crate) struct Connection {
    controller: Option<SocketAddr>,
    since: Instant,
    error: Option<String>,
    warned: Option<Instant>,
}

/// The TUN device.
#[derive(Debug)]
pub(crate) struct Device {
    /// None while it is gone.
    index: Option<u32>,
    reopen_at: Option<Instant>,
}

impl Site {
    async fn serve(&mut self, mut inputs: Inputs, shutdown: &CancellationToken) -> Result<()> {
        let mut resolve = interval(RESOLVE);
        let mut housekeeping = interval(HOUSEKEEPING);
        for timer in [&mut resolve, &mut housekeeping] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let report_at = self.report_at.into();
            let reopen_at = self.device.reopen_at;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                event = inputs.driver.recv() => match event {
                    Some(event) => self.driver_event(event).await,
                    None => bail!("the data plane has stopped; see the log"),
                },
                event = inputs.session.recv() => match event {
                    Some(event) => self.session_event(event).await,
                    None => bail!("the control session's task has stopped; see the log"),
                },
                Some(event) = inputs.host.recv() => self.host_event(event).await,
                // None of them ends by itself: something that we rely on is missing from now on.
                Some(ended) = self.tasks.join_next() => {
                    bail!("a task of the edge has stopped: {}", reason(ended));
                }
                Some(asked) = inputs.asked.recv() => self.answer(asked).await,
                Some(config) = inputs.reloads.recv() => self.reload(config).await,
                changed = self.resolver.next(), if self.resolver.is_busy() => {
                    if let Some(endpoint) = changed {
                        self.readdress(&endpoint).await;
                    }
                }
                () = sleep_until(report_at) => self.report().await,
                () = sleep_until(reopen_at.unwrap_or(self.started).into()), if reopen_at.is_some() => {
                    self.reopen_device().await;
                }
                _ = resolve.tick() => self.resolve_all(),
                _ = housekeeping.tick() => self.keep_house().await,
            }
        }
    }

    async fn host_event(&mut self, event: HostEvent) {
        match event {
            HostEvent::UnderlayChanged => {
                self.driver.address_changed();
                self.resolve_all();
            }
            // Unless another has taken its place by now.
            HostEvent::DeviceGone(index) if self.device.index == Some(index) => {
                self.lose_device().await;
            }
            HostEvent::DeviceGone(_) => {}
        }
    }

    async fn reload(&mut self, config: Config) {
        info!("configuration reloaded: log, forwarding and snat count from now on");
        self.routes.set_forwarding(config.forwarding == Forwarding::Set).await;
        self.config.forwarding = config.forwarding;
        self.config.snat = config.snat;
        self.apply_snat().await;
        self.look_for_credentials().await;
    }

    /// Masquerading as configured; what it says is a problem in `status`.
    pub(crate) async fn apply_snat(&mut self) {
        let result = match self.config.snat {
            true => snat::enable(&self.config.instance).await,
            false => snat::disable(&self.config.instance).await,
        };
        self.snat_error = result.err().map(|error| error.to_string());
        if let Some(error) = &self.snat_error {
            warn!(%error, "no masquerading");
        }
    }

    /// Stops in an order that tells peers and controller; device and routes stay.
    async fn stop(self) {
        let Self { driver, cancel, mut tasks, saver, talk, .. } = self;
        cancel.cancel();
        let farewell = tokio::task::spawn_blocking(move || driver.shutdown());
        if let Err(error) = farewell.await {
            warn!(%error, "the data plane ended badly");
        }
        saver.finish().await;
        if let Some(talk) = talk {
            // It says goodbye for a second at most.
            let _ = tokio::time::timeout(Duration::from_millis(1500), talk).await;
        }
        tasks.shutdown().await;
        info!("stopped; the device and its routes stay, so that nothing leaves in the clear");
    }
}

//! The edge as a process: everything around the data plane, in one task.
//!
//! `EdgeProcess` consists of parts that own their state. Its loop hands each event to the part
//! that it concerns; an event that concerns several goes through `apply` or `session`,
//! which fix the order.
//!
//! Further tasks are in the process's set and end with it: netlink's sockets, the route keeper, the
//! local socket, metrics, and the writers of files. The data plane has its own thread.

mod apply;
mod boot;
mod desired;
mod device;
mod forwarding;
mod guard;
mod identity;
mod latest_writer;
mod links;
mod log_limit;
mod problems;
mod reports;
mod session;
mod status;
mod uplink;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cframe_protocol::session::{Command, Event as SessionEvent};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Config, Forwarding},
    host::{
        driver::{Driver, DriverEvent},
        firewall::Firewall,
        routes::{HostEvent, Routes},
    },
    instance::Instance,
    local::Call,
    notify::notify,
};
use desired::DesiredState;
use device::Device;
use forwarding::Measurement;
use identity::Identity;
use links::Links;
use reports::Reports;
use uplink::Uplink;

const RESOLVE_INTERVAL: Duration = Duration::from_secs(60);
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(15);

pub use guard::guard;

/// Runs the edge until `shutdown`. `reloads` delivers new configurations, of which log filter,
/// forwarding, snat and own_prefixes are applied; each also makes the edge check for new credentials on disk.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    reloads: mpsc::Receiver<Config>,
) -> Result<()> {
    let (mut process, inputs) = boot::boot(config, reloads).await?;
    notify("READY=1");
    let result = process.serve(inputs, &shutdown).await;
    notify("STOPPING=1");
    process.stop().await;
    result
}

// fields: the parts of the process, each with a task or a state of its own
struct EdgeProcess {
    instance: Instance,
    identity: Identity,
    uplink: Uplink,
    desired: DesiredState,
    device: Device,
    links: Links,
    reports: Reports,
    firewall: Firewall,
    forwarding: Measurement,
    driver: Driver,
    routes: Routes,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

/// Where events come from.
struct Inputs {
    session: mpsc::Receiver<SessionEvent>,
    driver: mpsc::Receiver<DriverEvent>,
    host: mpsc::Receiver<HostEvent>,
    calls: mpsc::Receiver<Call>,
    reloads: mpsc::Receiver<Config>,
}

impl EdgeProcess {
    async fn serve(&mut self, mut inputs: Inputs, shutdown: &CancellationToken) -> Result<()> {
        let mut resolve = interval(RESOLVE_INTERVAL);
        let mut housekeeping = interval(HOUSEKEEPING_INTERVAL);
        for timer in [&mut resolve, &mut housekeeping] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let report_at = self.reports.due.into();
            let judge_at = self.reports.judge_at.into();
            let reopen_at = self.device.reopen_at;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                event = inputs.driver.recv() => match event {
                    Some(event) => self.handle_driver_event(event).await,
                    None => bail!("the data plane has stopped; see the log"),
                },
                event = inputs.session.recv() => match event {
                    Some(event) => self.handle_session_event(event).await,
                    None => bail!("the control session's task has stopped; see the log"),
                },
                Some(event) = inputs.host.recv() => self.handle_host_event(event).await,
                // No task ends by itself while the edge can still work.
                Some(ended) = self.tasks.join_next() => {
                    bail!("a task of the edge has stopped: {}", reason(ended));
                }
                Some(call) = inputs.calls.recv() => self.answer(call).await,
                Some(config) = inputs.reloads.recv() => self.reload(config).await,
                changed = self.links.next_resolved(), if self.links.is_resolving() => {
                    if let Some(endpoint) = changed {
                        self.update_addresses(&endpoint).await;
                    }
                }
                () = sleep_until(report_at) => self.send_report().await,
                () = sleep_until(reopen_at.unwrap_or_else(Instant::now).into()), if reopen_at.is_some() => {
                    self.device.reopen(self.desired.mtu(), &self.driver, &self.routes).await;
                }
                _ = resolve.tick() => self.links.resolve_all(&self.desired),
                _ = housekeeping.tick() => self.keep_house().await,
                () = self.forwarding.probe.changed() => self.reports.judge_soon(Instant::now()),
                () = sleep_until(judge_at) => drop(self.judge().await),
            }
        }
    }

    async fn handle_driver_event(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::TunGone => {
                self.device.handle_removal(self.desired.mtu(), &self.driver, &self.routes).await;
            }
            DriverEvent::Mesh(event) => {
                self.links.handle_event(event, &self.desired);
                self.reports.bring_forward(Instant::now());
                self.reports.judge_soon(Instant::now());
            }
        }
    }

    async fn handle_host_event(&mut self, event: HostEvent) {
        self.reports.judge_soon(Instant::now());
        match event {
            HostEvent::UnderlayChanged => {
                self.driver.address_changed();
                self.links.resolve_all(&self.desired);
            }
            // Another device may have replaced it in the meantime.
            HostEvent::DeviceGone(index) if self.device.index == Some(index) => {
                self.device.handle_removal(self.desired.mtu(), &self.driver, &self.routes).await;
            }
            HostEvent::DeviceGone(_) | HostEvent::Changed => {}
        }
    }

    async fn reload(&mut self, config: Config) {
        info!("configuration reloaded: log, forwarding, snat and own_prefixes apply from now on");
        self.routes.set_forwarding(config.forwarding == Forwarding::Set).await;
        self.firewall.set_options(config.snat, config.own_prefixes);
        self.check_credentials_on_disk().await;
    }

    async fn keep_house(&mut self) {
        self.renew_if_due().await;
        if self.identity.cut.is_some() && self.uplink.is_stable() {
            self.rejoin_mesh().await;
        }
        if let Some(status) = self.driver.status().await {
            let linked = status.links.iter().filter_map(|link| link.remote).map(|at| at.ip());
            self.update_underlay(linked.collect()).await;
            self.links.follow(&status.links);
            self.reports.log_drops(&status);
        }
    }

    async fn send_report(&mut self) {
        self.reports.schedule_next(Instant::now());
        if !self.uplink.is_connected() {
            return;
        }
        let Some(status) = self.driver.status().await else { return };
        let not_after = self.identity.certificate().not_after;
        let report = self.reports.report(&status, &self.links, not_after, self.desired.version());
        self.uplink.send(Command::Report(report)).await;
    }

    /// Says goodbye to peers and the controller. Device and routes stay.
    async fn stop(self) {
        let Self { driver, cancel, mut tasks, desired, uplink, .. } = self;
        cancel.cancel();
        if let Err(error) = tokio::task::spawn_blocking(move || driver.shutdown()).await {
            warn!(%error, "the data plane ended with an error");
        }
        desired.finish_saving().await;
        uplink.finish().await;
        tasks.shutdown().await;
        info!("stopped; the device and its routes stay, so that no packet leaves unencrypted");
    }
}

fn reason(ended: Result<(), JoinError>) -> String {
    match ended {
        Ok(()) => "see the log".to_owned(),
        Err(error) => error.to_string(),
    }
}

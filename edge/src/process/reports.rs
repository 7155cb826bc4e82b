//! What happens, told by the core, the session and the clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use cframe_mesh::Event as MeshEvent;
use cframe_pki::unix_now;
use cframe_protocol::{
    session::{CloseCode, Command, DEAD_AFTER, Event, SessionError},
    v1::{GoodbyeReason, LinkReport, Report},
};
use tracing::{debug, info, warn};

use super::{Connection, REOPEN, REPORT, REPORT_CHANGE, Site};
use crate::host::{
    driver::{DriverEvent, MeshStatus},
    tun::Tun,
};

/// Refused handshakes are logged this often at most: anybody can cause them.
const REFUSALS: Duration = Duration::from_secs(5);

/// The absence of all controllers is said again after this long.
const ABSENCE: Duration = Duration::from_secs(300);

/// What was last heard of each link, by peer.
#[derive(Debug, Default)]
pub(super) struct LinkLog {
    down: BTreeMap<String, (Instant, Option<String>)>,
    refusal_told: Option<Instant>,
    refusals: u64,
}

impl LinkLog {
    /// Since when a link is down, if it was ever up or refused, and why.
    pub(super) fn down(&self, peer: &str) -> Option<(Instant, Option<&str>)> {
        self.down.get(peer).map(|(since, reason)| (*since, reason.as_deref()))
    }

    fn refused(&mut self, now: Instant) -> Option<u64> {
        self.refusals += 1;
        if self.refusal_told.is_some_and(|at| now.duration_since(at) < REFUSALS) {
            return None;
        }
        self.refusal_told = Some(now);
        Some(std::mem::take(&mut self.refusals))
    }
}

impl Site {
    pub(super) async fn driver_event(&mut self, event: DriverEvent) {
        let now = Instant::now();
        match event {
            DriverEvent::TunGone => return self.lose_device().await,
            DriverEvent::Mesh(MeshEvent::LinkUp { peer, remote }) => {
                info!(%peer, %remote, "link up");
                self.last_seen.note(&peer, remote);
                self.links.down.remove(peer.as_str());
            }
            DriverEvent::Mesh(MeshEvent::LinkDown { peer, reason }) => {
                info!(%peer, %reason, "link down");
                self.links.down.insert(peer.as_str().to_owned(), (now, Some(reason)));
                self.resolve_peer(peer.as_str());
            }
            DriverEvent::Mesh(MeshEvent::Refused { remote, peer, reason }) => {
                if let Some(count) = self.links.refused(now) {
                    let peer = peer.as_ref().map(tracing::field::display);
                    warn!(%remote, peer, %reason, count, "handshake refused");
                }
                if let Some(peer) = peer {
                    let since = self.links.down(peer.as_str()).map_or(now, |(since, _)| since);
                    self.links.down.insert(peer.as_str().to_owned(), (since, Some(reason)));
                    self.resolve_peer(peer.as_str());
                }
            }
        }
        self.report_at = self.report_at.min((self.reported + REPORT_CHANGE).max(now));
    }

    pub(super) async fn session_event(&mut self, event: Event) {
        match event {
            Event::Connected { controller } => {
                // One that has cut us off accepts the connection before it refuses the certificate.
                if self.cut.is_none() {
                    info!(%controller, "session with a controller");
                }
                let controller = Some(controller);
                let since = Instant::now();
                self.connection = Connection { controller, since, error: None, warned: None };
                self.report().await;
            }
            Event::Desired(state) => self.take(state).await,
            Event::RenewReply(result) => self.renewed(result),
            Event::RenewNow => self.renew_now().await,
            Event::Goodbye(reason) => self.goodbye(reason).await,
            Event::Disconnected(error) => self.disconnected(&error).await,
        }
    }

    async fn goodbye(&mut self, reason: GoodbyeReason) {
        match reason {
            GoodbyeReason::Revoked => self.cut_off("its certificate was revoked").await,
            GoodbyeReason::Removed => self.cut_off("it was removed from its namespace").await,
            GoodbyeReason::Replaced => {
                warn!(
                    "another process has begun a session with this identity: is its state in use on two hosts?"
                );
            }
            GoodbyeReason::Shutdown => debug!("the controller stops"),
        }
    }

    async fn disconnected(&mut self, error: &SessionError) {
        if let SessionError::Closed(code) = error {
            match code {
                CloseCode::Revoked => self.cut_off("its certificate was revoked").await,
                CloseCode::Removed => self.cut_off("it was removed from its namespace").await,
                CloseCode::Done | CloseCode::Protocol | CloseCode::Shutdown | CloseCode::Busy => {}
            }
        }
        if matches!(error, SessionError::CertificateRefused(_)) {
            self.refused(&error.to_string());
        }
        // Somebody may have joined again meanwhile.
        self.look_for_credentials().await;
        let text = error.to_string();
        let had = self.connection.controller.take().is_some();
        if had {
            self.connection.since = Instant::now();
        }
        if self.is_cut() {
            debug!(error = %text, "no session with a controller");
        } else if had {
            self.confirmed = Some(unix_now());
            warn!(error = %text, "session lost; forwarding goes on");
        } else if self.connection.warned.is_none_or(|at| at.elapsed() > ABSENCE) {
            self.connection.warned = Some(Instant::now());
            warn!(error = %text, "no session with a controller; trying on");
        }
        self.connection.error = Some(text);
    }

    pub(super) async fn keep_house(&mut self) {
        self.renew_when_due().await;
        // A session that stands for longer than silence is borne has heard from its controller.
        let stands = self.connection.controller.is_some();
        if self.cut.is_some() && stands && self.connection.since.elapsed() > DEAD_AFTER {
            self.back_in().await;
        }
        if let Some(status) = self.driver.status().await {
            let linked: BTreeSet<_> =
                status.links.iter().filter_map(|link| link.remote).map(|at| at.ip()).collect();
            self.note_remotes(linked).await;
            self.last_seen.follow(&status.links);
            self.tell_drops(&status);
        }
    }

    /// One line for all drops since the last: they can come by the million.
    fn tell_drops(&mut self, status: &MeshStatus) {
        let mut news = Vec::new();
        for (reason, count) in status.counters.dropped().chain(status.host.iter()) {
            let told = self.drops_told.entry(reason).or_default();
            if count > *told {
                news.push(format!("{reason} {}", count - *told));
                *told = count;
            }
        }
        if !news.is_empty() {
            info!("packets dropped: {}", news.join(", "));
        }
    }

    /// Tells the controller how we are.
    pub(super) async fn report(&mut self) {
        let now = Instant::now();
        self.reported = now;
        self.report_at = now + REPORT;
        if self.connection.controller.is_none() {
            return;
        }
        let Some(status) = self.driver.status().await else { return };
        let clock = unix_now();
        let ago = |at: Instant| clock.saturating_sub(now.saturating_duration_since(at).as_secs());
        let links = status.links.iter().take(Report::MAX_LINKS).map(|link| {
            let down = self.links.down(link.peer.as_str()).map_or(self.started, |(since, _)| since);
            LinkReport {
                peer: link.peer.clone(),
                up: link.up,
                rtt_us: u32::try_from(link.rtt.as_micros()).unwrap_or(u32::MAX),
                path_mtu: link.path_mtu,
                since_unix: ago(link.since.unwrap_or(down)),
            }
        });
        let report = Report {
            links: links.collect(),
            cert_not_after: self.credentials.identity().not_after,
            applied: self.applied(),
        };
        self.tell(Command::Report(report)).await;
    }

    /// The device is gone: it is made again, and its routes with it.
    pub(super) async fn lose_device(&mut self) {
        if self.device.reopen_at.is_none() {
            warn!(device = %self.config.instance, "the device was removed; making it again");
            self.driver.set_tun(None);
            self.device.index = None;
            self.reopen_device().await;
        }
    }

    pub(super) async fn reopen_device(&mut self) {
        let mtu = self.desired.settings.tun_mtu;
        match Tun::open(self.config.instance.name(), mtu) {
            Ok(tun) => {
                let index = tun.index;
                self.device.index = Some(index);
                self.device.reopen_at = None;
                self.driver.set_tun(Some(tun));
                self.routes.set_device(Some(index), mtu).await;
                info!(device = %self.config.instance, "the device is back");
            }
            Err(error) => {
                if self.device.reopen_at.is_none() {
                    warn!("the device cannot be made: {:#}", anyhow::Error::new(error));
                    self.routes.set_device(None, mtu).await;
                }
                self.device.reopen_at = Some(Instant::now() + REOPEN);
            }
        }
    }
}

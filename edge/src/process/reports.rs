//! What the process reports: to the controller how links are, and to the log what was dropped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cframe_pki::unix_now;
use cframe_protocol::v1::{LinkReport, Report, Version};
use tracing::info;

use super::{links::Links, problems::Ledger};
use crate::host::driver::MeshStatus;

const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How often the edge is judged when nothing happens.
const JUDGE_INTERVAL: Duration = Duration::from_secs(1);
/// After an event: others often follow it at once.
const JUDGE_DELAY: Duration = Duration::from_millis(300);
/// The least time between two reports, when links change.
const MIN_REPORT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Reports {
    /// When the process started.
    pub(super) started: Instant,
    pub(super) due: Instant,
    sent: Instant,
    /// Drops by reason, as they were when last logged.
    drops_logged: BTreeMap<&'static str, u64>,
    /// What is wrong.
    pub(super) ledger: Ledger,
    /// When that is judged next.
    pub(super) judge_at: Instant,
}

impl Reports {
    pub(super) fn new(started: Instant) -> Self {
        let now = Instant::now();
        Self {
            started,
            due: now,
            sent: now,
            drops_logged: BTreeMap::new(),
            ledger: Ledger::default(),
            judge_at: now + JUDGE_INTERVAL,
        }
    }

    /// A link has changed: the next report is due as soon as the minimal interval allows.
    pub(super) fn bring_forward(&mut self, now: Instant) {
        self.due = self.due.min((self.sent + MIN_REPORT_INTERVAL).max(now));
    }

    /// Something has happened that may start or end a problem.
    pub(super) fn judge_soon(&mut self, now: Instant) {
        self.judge_at = self.judge_at.min(now + JUDGE_DELAY);
    }

    pub(super) fn schedule_judgement(&mut self, now: Instant) {
        self.judge_at = now + JUDGE_INTERVAL;
    }

    pub(super) fn schedule_next(&mut self, now: Instant) {
        self.sent = now;
        self.due = now + REPORT_INTERVAL;
    }

    /// `cert_not_after` is in Unix seconds.
    pub(super) fn report(
        &self,
        status: &MeshStatus,
        links: &Links,
        cert_not_after: u64,
        applied: Option<Version>,
    ) -> Report {
        let (now, clock) = (Instant::now(), unix_now());
        let unix = |at: Instant| clock.saturating_sub(now.saturating_duration_since(at).as_secs());
        // The session shortens the list, and leaves out what is up.
        let links = status.links.iter().map(|link| LinkReport {
            peer: link.peer.clone(),
            up: links.carries(link),
            rtt_us: u32::try_from(link.rtt.as_micros()).unwrap_or(u32::MAX),
            path_mtu: link.path_mtu,
            since_unix: unix(links.since(link, self.started)),
        });
        Report { links: links.collect(), cert_not_after, applied }
    }

    /// One line for all drops since the last: they can come by the million.
    pub(super) fn log_drops(&mut self, status: &MeshStatus) {
        let mut new = Vec::new();
        for (reason, count) in status.drops() {
            let logged = self.drops_logged.entry(reason).or_default();
            if count > *logged {
                new.push(format!("{reason} {}", count - *logged));
                *logged = count;
            }
        }
        if !new.is_empty() {
            info!("packets dropped: {}", new.join(", "));
        }
    }
}

//! The edge as `status` shows it, put together from what the parts report.

use std::time::Instant;

use cframe_pki::unix_now;

use super::{
    EdgeProcess,
    problems::{Observed, problems},
};
use crate::{
    host::routes::Audit,
    local::{Call, Request, Response},
    status::{RouteStatus, StateStatus, Status, Traffic},
};

impl EdgeProcess {
    pub(super) async fn answer(&self, call: Call) {
        let response = match call.request {
            Request::Status => match self.status().await {
                Some(status) => Response::Status(Box::new(status)),
                None => Response::Error("the data plane has stopped".to_owned()),
            },
        };
        // The client may have gone away.
        let _ = call.reply.send(response);
    }

    async fn status(&self) -> Option<Status> {
        let mesh = self.driver.status().await?;
        let audit = self.routes.audit().await?;
        let now = Instant::now();
        let (instance, started) = (&self.instance, self.reports.started);
        let counters = &mesh.counters;
        let drops = mesh.drops().filter(|(_, count)| *count > 0);
        let cut = self.identity.cut();
        Some(Status {
            instance: instance.name().to_owned(),
            id: self.identity.certificate().id.to_string(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_secs: now.duration_since(started).as_secs(),
            clock: unix_now(),
            listen: self.links.listen,
            state: StateStatus {
                cut_off: cut.map(|cut| cut.reason.clone()),
                cut_off_at: cut.map(|cut| cut.at),
                ..self.desired.status(self.uplink.is_connected())
            },
            controller: self.uplink.status(now),
            certificate: self.identity.status(),
            device: self.device.status(self.desired.mtu(), mesh.tun),
            links: self.links.status(&mesh, &self.desired, started, now),
            drops: drops
                .map(|(reason, count)| (reason.to_owned(), count))
                .chain(self.identity.refusals.counts())
                .collect(),
            traffic: Traffic {
                sent_packets: counters.sent,
                sent_bytes: counters.sent_bytes,
                received_packets: counters.received,
                received_bytes: counters.received_bytes,
            },
            problems: self.problems(&audit),
            routes: self.route_status(audit),
        })
    }

    fn route_status(&self, audit: Audit) -> RouteStatus {
        let overlaps = audit.overlaps.into_iter();
        RouteStatus {
            table: self.instance.table(),
            mark: self.instance.mark(),
            intended: audit.intended,
            installed: audit.installed,
            missing: audit.missing,
            stale: audit.stale,
            error: audit.error,
            sources: audit.sources,
            overlaps: overlaps
                .map(|(local, foreign)| format!("{local} (here) and {foreign} (mesh)"))
                .collect(),
        }
    }

    fn problems(&self, audit: &Audit) -> Vec<String> {
        problems(&Observed {
            own: &self.identity.name,
            desired: self.desired.applied(),
            certificate: &self.identity.certificate(),
            clock: unix_now(),
            renewal_error: self.identity.renewal_error(),
            route_error: audit.error.as_deref(),
            snat_error: self.snat.error(),
        })
    }
}

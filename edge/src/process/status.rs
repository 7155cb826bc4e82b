//! The edge as `status` shows it, put together from what the parts report.

use std::time::Instant;

use cframe_pki::unix_now;

use super::EdgeProcess;
use crate::{
    local::{Call, Request, Response},
    status::{StateStatus, Status, Traffic},
};

impl EdgeProcess {
    pub(super) async fn answer(&mut self, call: Call) {
        let response = match call.request {
            Request::Doctor => Response::Doctor(self.examine().await),
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
        let routes = self.routes.status().await?;
        let now = Instant::now();
        let (instance, started) = (&self.instance, self.reports.started);
        let counters = &mesh.counters;
        let drops = mesh.drops().filter(|(_, count)| *count > 0);
        let cut = self.identity.cut.as_ref();
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
            problems: self.reports.ledger.statuses(),
            routes,
        })
    }
}

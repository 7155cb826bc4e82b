//! The edge as `status` shows it.

use std::{collections::BTreeMap, time::Instant};

use cframe_pki::{
    renewal::{days_left, expires_soon},
    unix_now,
};
use cframe_protocol::v1::{EdgeState, Version};

use super::{Site, renew::EXPIRED};
use crate::{
    host::{driver::MeshStatus, routes::Audit},
    local::{Answer, Asked, Question},
    status::{
        CertificateStatus, ControllerStatus, DeviceStatus, LinkStatus, RouteStatus, StateStatus,
        Status, Traffic,
    },
};

impl Site {
    pub(super) async fn answer(&mut self, asked: Asked) {
        let answer = match asked.question {
            Question::Status => match self.status().await {
                Some(status) => Answer::Status(Box::new(status)),
                None => Answer::Error("the data plane has stopped".to_owned()),
            },
        };
        // Whoever asked may have gone.
        let _ = asked.reply.send(answer);
    }

    /// The version that is applied; none before the first.
    pub(super) fn applied(&self) -> Option<Version> {
        let version = self.desired.version;
        (version != Version::default()).then_some(version)
    }

    async fn status(&self) -> Option<Status> {
        let mesh = self.driver.status().await?;
        let audit = self.routes.audit().await?;
        let now = Instant::now();
        let counters = &mesh.counters;
        let drops = counters.dropped().chain(mesh.host.iter()).filter(|(_, count)| *count > 0);
        Some(Status {
            instance: self.config.instance.name().to_owned(),
            id: self.credentials.identity().id.to_string(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_secs: now.duration_since(self.started).as_secs(),
            clock: unix_now(),
            listen: self.listen,
            state: self.state_status(),
            controller: self.controller_status(now),
            certificate: self.certificate_status(),
            device: DeviceStatus {
                name: self.config.instance.name().to_owned(),
                index: self.device.index.unwrap_or_default(),
                mtu: self.desired.settings.tun_mtu,
                present: mesh.tun,
            },
            links: self.link_status(&mesh, now),
            drops: drops
                .map(|(reason, count)| (reason.to_owned(), count))
                .chain(self.refusals.counts())
                .collect::<BTreeMap<_, _>>(),
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

    fn state_status(&self) -> StateStatus {
        let own = |net| self.desired.prefixes.get(net) == Some(&self.name);
        let own: Vec<String> =
            self.desired.prefixes.keys().filter(|net| own(*net)).map(ToString::to_string).collect();
        let connected = self.connection.controller.is_some();
        StateStatus {
            version: self.applied().map(|version| version.to_string()),
            age_secs: self.confirmed.map(|at| match connected {
                true => 0,
                false => unix_now().saturating_sub(at),
            }),
            foreign: self.desired.prefixes.len() - own.len(),
            own,
            cut: self.cut.as_ref().map(|cut| cut.reason.clone()),
            cut_at: self.cut.as_ref().map(|cut| cut.at),
        }
    }

    fn controller_status(&self, now: Instant) -> ControllerStatus {
        ControllerStatus {
            connected: self.connection.controller,
            since_secs: now.duration_since(self.connection.since).as_secs(),
            error: self.connection.error.clone().filter(|_| self.connection.controller.is_none()),
            addresses: self.client.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    fn certificate_status(&self) -> CertificateStatus {
        let identity = self.credentials.identity();
        CertificateStatus {
            serial: identity.serial.to_string(),
            not_before: identity.not_before,
            not_after: identity.not_after,
            days_left: days_left(identity.not_after, unix_now()),
            renew_at: self.renewal.next(unix_now()),
            renewal_error: self.renewal.error.clone(),
        }
    }

    fn link_status(&self, mesh: &MeshStatus, now: Instant) -> Vec<LinkStatus> {
        let mut links: Vec<LinkStatus> = mesh
            .links
            .iter()
            .map(|link| {
                let down = self.links.down(link.peer.as_str());
                let since = link.since.or(down.map(|(since, _)| since)).unwrap_or(self.started);
                let state = self.desired.edges.get(&link.peer);
                let endpoints = state.map_or(&[][..], |EdgeState { endpoints }| endpoints);
                LinkStatus {
                    peer: link.peer.as_str().to_owned(),
                    up: link.up,
                    since_secs: now.saturating_duration_since(since).as_secs(),
                    remote: link.remote,
                    addresses: self.resolver.addresses(endpoints),
                    dialed: link.dialed,
                    rtt_us: u64::try_from(link.rtt.as_micros()).unwrap_or(u64::MAX),
                    path_mtu: link.path_mtu,
                    largest_inner: link.largest_inner,
                    black_holes: link.black_holes,
                    loss: share(link.lost_packets, link.sent_packets),
                    traffic: Traffic {
                        sent_packets: link.traffic.sent,
                        sent_bytes: link.traffic.sent_bytes,
                        received_packets: link.traffic.received,
                        received_bytes: link.traffic.received_bytes,
                    },
                    reason: down.and_then(|(_, reason)| reason.map(str::to_owned)),
                }
            })
            .collect();
        links.sort_by(|a, b| a.peer.cmp(&b.peer));
        links
    }

    fn route_status(&self, audit: Audit) -> RouteStatus {
        RouteStatus {
            table: self.config.instance.table(),
            mark: self.config.instance.mark(),
            intended: audit.intended,
            installed: audit.installed,
            missing: audit.missing,
            stale: audit.stale,
            problem: audit.problem,
            sources: audit.sources,
            overlaps: audit
                .overlaps
                .into_iter()
                .map(|(local, foreign)| format!("{local} (here) and {foreign} (mesh)"))
                .collect(),
        }
    }

    fn problems(&self, audit: &Audit) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(problem) = &audit.problem {
            problems.push(format!("the kernel refuses routes: {problem}"));
        }
        if let Some(error) = &self.snat_error {
            problems.push(error.clone());
        }
        if let Some(error) = &self.renewal.error {
            problems.push(format!("the certificate was not renewed: {error}"));
        }
        problems.extend(self.expiry_problem(unix_now()));
        let own = &self.desired.edges.get(&self.name);
        let alone = own.is_some_and(|state| state.endpoints.is_empty());
        for (name, state) in &self.desired.edges {
            if alone && *name != self.name && state.endpoints.is_empty() {
                problems.push(format!(
                    "neither we nor {name} have an endpoint, so that no link is possible: \
                     give one of them an endpoint (cfctl edge set)"
                ));
            }
        }
        problems
    }
}

impl Site {
    /// The certificate's end, near or past.
    fn expiry_problem(&self, now: u64) -> Option<String> {
        let identity = self.credentials.identity();
        if now > identity.not_after {
            return Some(EXPIRED.to_owned());
        }
        if !expires_soon(identity.not_before, identity.not_after, now) {
            return None;
        }
        let days = days_left(identity.not_after, now);
        Some(format!(
            "the certificate expires in {days} days and was not renewed: is a controller reachable?"
        ))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

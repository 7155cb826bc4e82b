//! The judgement of the whole edge: every few seconds, after events, and on demand.

mod ledger;

use std::time::Instant;

use cframe_pki::unix_now;
use cframe_protocol::session::Command;

use super::EdgeProcess;
use crate::{
    judge::{
        self, Facts,
        links::LinkFacts,
        own::{Clock, OwnFacts, Skew, Validity},
    },
    problem::{Check, Report},
    sys,
};
pub(super) use ledger::Ledger;

impl EdgeProcess {
    /// Judges, and reports to log and controller what has changed.
    pub(super) async fn judge(&mut self) -> Vec<Check> {
        self.reports.schedule_judgement(Instant::now());
        let checks = judge::checks(&self.facts().await);
        if self.links.take_change() {
            self.reports.bring_forward(Instant::now());
        }
        let ledger = &mut self.reports.ledger;
        ledger.update(Check::problems(&checks), unix_now(), Instant::now());
        if let Some(problems) = ledger.take_report(Instant::now()) {
            self.uplink.send(Command::Problems(problems)).await;
        }
        checks
    }

    /// For `doctor`: everything is measured now.
    pub(super) async fn examine(&mut self) -> Report {
        self.forwarding.probe.now().await;
        let checks = self.judge().await;
        Report::new(&checks, |problem| self.reports.ledger.status(problem))
    }

    async fn facts(&mut self) -> Facts {
        let mesh = self.driver.status().await;
        if let Some(mesh) = &mesh {
            self.update_forwarding(mesh);
        }
        let links = match &mesh {
            // Without the mesh, no link is expected.
            Some(mesh) if !self.identity.is_cut_off() => {
                let id = self.identity.certificate().id.clone();
                self.links.facts(&id, &self.identity.name, mesh, &self.desired)
            }
            Some(_) | None => LinkFacts::default(),
        };
        Facts {
            own: self.own_facts(mesh.is_some_and(|mesh| mesh.tun)),
            links,
            routing: self.routes.facts().await,
            firewall: self.firewall.facts().await,
            forwarding: self.forwarding.probe.facts(),
        }
    }

    /// What the controllers' certificates say of this clock, unless one of them was accepted since.
    fn clock_skew(&self) -> Option<Skew> {
        if self.uplink.is_connected() {
            return None;
        }
        let refused = self.uplink.refused_for_time.then_some(Skew::Unknown);
        self.identity.refusals.clock_skew().or(refused)
    }

    fn own_facts(&self, tun: bool) -> OwnFacts {
        let certificate = self.identity.certificate();
        let (not_before, not_after) = (certificate.not_before, certificate.not_after);
        OwnFacts {
            clock: Clock {
                now: unix_now(),
                confirmed: self.desired.confirmed(),
                controller: self.clock_skew(),
                synchronised: sys::clock_is_synchronised().ok(),
            },
            certificate: Some(Ok(Validity { not_before, not_after })),
            renewal_error: self.identity.renewal.error.clone(),
            cut_off: self.identity.cut.as_ref().map(|cut| cut.reason.clone()),
            in_use: self.uplink.is_in_use(),
            controller: Some(self.uplink.status(Instant::now())),
            device: Some(self.device.facts(tun)),
            not_saved: self.desired.save_error(),
            damaged: None,
        }
    }
}

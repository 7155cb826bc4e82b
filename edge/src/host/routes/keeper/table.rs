//! The edge's table and rules: compared, corrected, and repaired ever more slowly against a program that
//! undoes it.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Keeper;
use crate::host::{
    backoff::Backoff,
    netlink::{Found, NetlinkError},
    reconcile::{Plan, Route, RouteKey},
};

/// With more keys, the whole table is compared.
const MAX_KEYS: usize = 256;
/// Routes that a log line names.
const MAX_NAMED: usize = 3;

#[derive(Debug)]
pub(super) struct Repairs {
    pub(super) rules: Backoff,
    pub(super) routes: Backoff,
    pub(super) device: Backoff,
    /// What another program has changed in the table.
    pub(super) keys: BTreeSet<RouteKey>,
    pub(super) whole: bool,
}

impl Default for Repairs {
    fn default() -> Self {
        Self {
            rules: Backoff::new("the policy rule"),
            routes: Backoff::new("routes"),
            device: Backoff::new("the MTU or state of the device"),
            keys: BTreeSet::new(),
            whole: false,
        }
    }
}

impl Repairs {
    pub(super) fn due(&self) -> Option<Instant> {
        [&self.rules, &self.routes, &self.device].into_iter().filter_map(Backoff::due).min()
    }
}

impl Keeper {
    /// Puts back what is due.
    pub(super) async fn repair(&mut self) {
        let now = Instant::now();
        if self.repairs.rules.take(now) {
            self.repair_rules().await;
        }
        if self.repairs.routes.take(now) {
            self.repair_table().await;
        }
        if self.repairs.device.take(now) {
            self.repair_device().await;
        }
    }

    async fn repair_rules(&mut self) {
        if !self.armed {
            return;
        }
        match self.kernel.ensure_rules(self.instance.table(), self.mark).await {
            Ok(true) if self.repairs.rules.is_worth_a_line() => {
                let by = self.repairs.rules.culprit();
                warn!(by, "the edge's policy rule was removed or changed; put back");
            }
            Ok(_) => {}
            Err(error) => self.record_refusal(&error),
        }
    }

    pub(super) async fn repair_table(&mut self) {
        let keys = std::mem::take(&mut self.repairs.keys);
        if std::mem::take(&mut self.repairs.whole) || keys.len() > MAX_KEYS {
            return self.reconcile().await;
        }
        if !self.armed || keys.is_empty() {
            return;
        }
        if self.repairs.routes.is_worth_a_line() {
            let by = self.repairs.routes.culprit();
            warn!(by, routes = %named(keys.iter()), "routes of the edge were changed; corrected");
        }
        // What should not be there is removed.
        let held: Vec<(RouteKey, bool)> = keys.iter().map(|key| (*key, true)).collect();
        self.apply(&held, keys).await;
    }

    /// Whether each of these keys should hold a route.
    pub(super) fn held(&self, keys: BTreeSet<RouteKey>) -> Vec<(RouteKey, bool)> {
        keys.into_iter().map(|key| (key, self.intent.at(&key).is_some())).collect()
    }

    /// Updates the keys that a change affects. `before`: whether each held a route before it.
    pub(super) async fn apply(
        &mut self,
        before: &[(RouteKey, bool)],
        affected: BTreeSet<RouteKey>,
    ) {
        if !self.armed {
            return;
        }
        let wanted = |key: &RouteKey| self.intent.at(key).map(|target| (*key, target));
        let put: Vec<Route> =
            affected.iter().filter_map(wanted).map(|(key, target)| Route { key, target }).collect();
        let gone: BTreeSet<RouteKey> = before
            .iter()
            .filter(|(key, held)| *held && self.intent.at(key).is_none())
            .map(|(key, _)| *key)
            .collect();
        let table = self.instance.table();
        let put = self.kernel.put(table, &put).await;
        let deleted = self.kernel.delete_keys(table, &gone).await;
        if let Err(error) = put.and(deleted) {
            self.record_refusal(&error);
        }
    }

    /// Compares the whole table with the intended one and corrects it.
    pub(super) async fn reconcile(&mut self) {
        match self.correct_table().await {
            Ok(()) => self.error = None,
            Err(error) => self.record_refusal(&error),
        }
    }

    async fn correct_table(&mut self) -> Result<(), NetlinkError> {
        if !self.armed {
            return Ok(());
        }
        let table = self.instance.table();
        let found = self.kernel.table(table).await?;
        let plan = self.plan(&found);
        // Routes before the rules that lead to them: in between, the table must not be used.
        let made = self.kernel.put(table, &plan.missing).await;
        let stale: Vec<&Found> = plan.stale.iter().map(|index| &found[*index]).collect();
        let removed = self.kernel.delete_found(&stale).await;
        // What is undone again and again waits for its time.
        let rules = match self.repairs.rules.due() {
            None => self.kernel.ensure_rules(table, self.mark).await.map(drop),
            Some(_) => Ok(()),
        };
        // A refusal is retried every few seconds, and logged once.
        made.and(removed).and(rules)?;
        if plan != Plan::default() && self.repairs.routes.is_worth_a_line() {
            let made = named(plan.missing.iter().map(|route| &route.key));
            let removed = named(stale.iter().map(|found| &found.route.key));
            info!(%made, %removed, "routes corrected");
        }
        Ok(())
    }

    pub(super) fn plan(&self, found: &[Found]) -> Plan {
        let routes: Vec<Route> = found.iter().map(|found| found.route).collect();
        self.intent.plan(&routes)
    }
}

/// Some of the networks, and how many more there are.
fn named<'a>(keys: impl Iterator<Item = &'a RouteKey>) -> String {
    let nets: BTreeSet<_> = keys.map(|key| key.net).collect();
    let mut text: Vec<String> = nets.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    if nets.len() > MAX_NAMED {
        text.push(format!("and {} more", nets.len() - MAX_NAMED));
    }
    if text.is_empty() { "none".to_owned() } else { text.join(" ") }
}

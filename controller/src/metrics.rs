//! Metrics in the OpenMetrics text format. All names start with `cframe_controller_`.

use std::time::Duration;

use cframe_protocol::v1::ErrorCode;
use cframe_store::{CommitError, ReadError};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::audit::record::result_label;

/// All metrics of a controller.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: Family<Port, Counter>,
    refused: Family<Reason, Counter>,
    calls: Family<CallLabels, Counter>,
    issued: Family<IssuedLabels, Counter>,
    updates: Family<Kind, Counter>,
    update_bytes: Counter,
    edges_ahead: Counter,
    audit: Family<Kind, Counter>,
    pub(crate) store: StoreMetrics,
    pub(crate) gauges: Gauges,
}

#[derive(Debug)]
pub(crate) struct StoreMetrics {
    commits: Family<Outcome, Counter>,
    commit_seconds: Histogram,
    lists: Family<Outcome, Counter>,
    list_seconds: Histogram,
    watch_restarts: Counter,
    relists: Family<Reason, Counter>,
    differences: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) sessions: Gauge,
    pub(crate) edges: Gauge,
    pub(crate) namespaces: Gauge,
    pub(crate) prefixes: Gauge,
    pub(crate) certificate_seconds: Gauge,
    pub(crate) issuer_seconds: Gauge,
    expires_seconds: Family<Kind, Gauge>,
    expiring: Family<Kind, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Port {
    port: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuedLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("cframe_controller"),
            connections: Family::default(),
            refused: Family::default(),
            calls: Family::default(),
            issued: Family::default(),
            updates: Family::default(),
            update_bytes: Counter::default(),
            edges_ahead: Counter::default(),
            audit: Family::default(),
            store: StoreMetrics::default(),
            gauges: Gauges::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("connections", "Connections that were accepted", self.connections.clone());
        r.register("refused", "Connections that were refused, by reason", self.refused.clone());
        r.register("calls", "Admin calls", self.calls.clone());
        r.register("issued", "Certificates requested, by kind and result", self.issued.clone());
        r.register("updates", "Update frames sent to edges", self.updates.clone());
        let help = "Bytes of update frames sent to edges";
        r.register("update_bytes", help, self.update_bytes.clone());
        let help = "Times that an edge had a newer state than this controller";
        r.register("edges_ahead", help, self.edges_ahead.clone());
        let help = "Records of the audit log: written with a change or alone, left out, trimmed";
        r.register("audit_records", help, self.audit.clone());
        self.store.register(r);
        self.gauges.register(r);
    }

    /// A connection was accepted on a port: `control` or `enroll`.
    pub fn connected(&self, port: &'static str) {
        self.connections.get_or_create(&Port { port }).inc();
    }

    /// A connection was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// An admin call was answered.
    pub fn call(&self, call: &'static str, error: Option<ErrorCode>) {
        let result = error.map_or("ok", result_label);
        self.calls.get_or_create(&CallLabels { call, result }).inc();
    }

    /// A certificate was requested: `enrollment` or `renewal`.
    pub fn issued(&self, kind: &'static str, done: bool) {
        let result = if done { "ok" } else { "refused" };
        self.issued.get_or_create(&IssuedLabels { kind, result }).inc();
    }

    /// A frame of an update was sent.
    pub fn update(&self, snapshot: bool, bytes: usize) {
        let kind = if snapshot { "snapshot" } else { "difference" };
        self.updates.get_or_create(&Kind { kind }).inc();
        self.update_bytes.inc_by(bytes as u64);
    }

    /// An edge had a newer state than this controller.
    pub fn edge_ahead(&self) {
        self.edges_ahead.inc();
    }

    /// Records of the audit log: `with_change`, `alone`, `left_out` or `trimmed`.
    pub fn audit(&self, kind: &'static str, records: u64) {
        self.audit.get_or_create(&Kind { kind }).inc_by(records);
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for StoreMetrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
        Self {
            commits: Family::default(),
            commit_seconds: seconds(),
            lists: Family::default(),
            list_seconds: seconds(),
            watch_restarts: Counter::default(),
            relists: Family::default(),
            differences: Counter::default(),
        }
    }
}

impl StoreMetrics {
    fn register(&self, r: &mut Registry) {
        r.register("commits", "Transactions of the store", self.commits.clone());
        r.register("commit_seconds", "Duration of transactions", self.commit_seconds.clone());
        r.register("lists", "Lists of the store", self.lists.clone());
        r.register("list_seconds", "Duration of lists", self.list_seconds.clone());
        let help = "Times that the store's watch ended and was started again";
        r.register("watch_restarts", help, self.watch_restarts.clone());
        let help = "Lists after a watch ended (error) and to compare with memory (timer)";
        r.register("relists", help, self.relists.clone());
        let help = "Records in memory that differed from the store";
        r.register("relist_differences", help, self.differences.clone());
    }

    pub(crate) fn commit<T>(&self, duration: Duration, result: &Result<T, CommitError>) {
        let result = match result {
            Ok(_) => "ok",
            Err(CommitError::Conflict(_)) => "conflict",
            Err(CommitError::Full(_)) => "full",
            Err(CommitError::TooLarge(_)) => "too_large",
            Err(CommitError::Corrupt(_)) => "corrupt",
            Err(CommitError::Unavailable(_)) => "unavailable",
        };
        self.commits.get_or_create(&Outcome { result }).inc();
        self.commit_seconds.observe(duration.as_secs_f64());
    }

    pub(crate) fn list<T>(&self, duration: Duration, result: &Result<T, ReadError>) {
        let result = match result {
            Ok(_) => "ok",
            Err(ReadError::Corrupt(_)) => "corrupt",
            Err(ReadError::Unavailable(_)) => "unavailable",
        };
        self.lists.get_or_create(&Outcome { result }).inc();
        self.list_seconds.observe(duration.as_secs_f64());
    }

    pub(crate) fn watch_restarted(&self) {
        self.watch_restarts.inc();
    }

    /// The whole store was read again: `error` or `timer`.
    pub(crate) fn listed_again(&self, reason: &'static str) {
        self.relists.get_or_create(&Reason { reason }).inc();
    }

    /// Records in memory differed from the store.
    pub(crate) fn different(&self, records: usize) {
        self.differences.inc_by(records as u64);
    }
}

impl Gauges {
    fn register(&self, r: &mut Registry) {
        r.register("sessions", "Edges with a session here", self.sessions.clone());
        r.register("edges", "Edges in the store", self.edges.clone());
        r.register("namespaces", "Namespaces in the store", self.namespaces.clone());
        r.register("prefixes", "Prefixes in the store", self.prefixes.clone());
        let help = "Seconds until the controller's certificate expires";
        r.register("certificate_seconds", help, self.certificate_seconds.clone());
        let help = "Seconds until the controller's issuing CA expires";
        r.register("issuer_seconds", help, self.issuer_seconds.clone());
        let help =
            "Seconds until the first of a kind expires: root, issuer, controller, edge, admin";
        r.register("expires_seconds", help, self.expires_seconds.clone());
        let help = "How many of a kind expire soon and were not renewed";
        r.register("expiring", help, self.expiring.clone());
    }

    /// For one kind of what expires: the seconds until the first one does, if there is any, and how many do soon.
    pub(crate) fn expiry(&self, kind: &'static str, first: Option<i64>, soon: usize) {
        let label = Kind { kind };
        if let Some(seconds) = first {
            self.expires_seconds.get_or_create(&label).set(seconds);
        } else {
            self.expires_seconds.remove(&label);
        }
        let soon = i64::try_from(soon).unwrap_or(i64::MAX);
        self.expiring.get_or_create(&label).set(soon);
    }
}

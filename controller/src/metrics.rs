//! What is counted, in Prometheus's text format. Names begin with `cframe_controller_`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

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

use crate::audit;

/// All metrics of a controller.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    connections: Family<Port, Counter>,
    refused: Family<Reason, Counter>,
    calls: Family<CallLabels, Counter>,
    issued: Family<IssuedLabels, Counter>,
    updates: Family<Kind, Counter>,
    update_bytes: Counter,
    behind: Counter,
    audit: Family<Kind, Counter>,
    commits: Family<Outcome, Counter>,
    commit_seconds: Histogram,
    lists: Family<Outcome, Counter>,
    list_seconds: Histogram,
    watch_restarts: Counter,
    relists: Family<Reason, Counter>,
    differences: Counter,
    /// Edges with a session here.
    pub sessions: Gauge,
    /// Edges in the store.
    pub edges: Gauge,
    /// Namespaces in the store.
    pub namespaces: Gauge,
    /// Prefixes in the store.
    pub prefixes: Gauge,
    /// Seconds until this controller's own certificate expires.
    pub certificate_seconds: Gauge,
    /// Seconds until this controller's issuing CA expires.
    pub issuer_seconds: Gauge,
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
        let metrics = Self {
            registry: Mutex::default(),
            connections: Family::default(),
            refused: Family::default(),
            calls: Family::default(),
            issued: Family::default(),
            updates: Family::default(),
            update_bytes: Counter::default(),
            behind: Counter::default(),
            audit: Family::default(),
            commits: Family::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            lists: Family::default(),
            list_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            watch_restarts: Counter::default(),
            relists: Family::default(),
            differences: Counter::default(),
            sessions: Gauge::default(),
            edges: Gauge::default(),
            namespaces: Gauge::default(),
            prefixes: Gauge::default(),
            certificate_seconds: Gauge::default(),
            issuer_seconds: Gauge::default(),
            expires_seconds: Family::default(),
            expiring: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = Registry::with_prefix("cframe_controller");
        let r = &mut registry;
        r.register("connections", "Connections that were accepted", self.connections.clone());
        r.register("refused", "Connections that were refused, by reason", self.refused.clone());
        r.register("calls", "Admin calls", self.calls.clone());
        r.register("issued", "Certificates asked for, by kind and result", self.issued.clone());
        r.register("updates", "Update frames sent to edges", self.updates.clone());
        r.register(
            "update_bytes",
            "Bytes of update frames sent to edges",
            self.update_bytes.clone(),
        );
        r.register(
            "edges_ahead",
            "Times that an edge had a newer state than here",
            self.behind.clone(),
        );
        r.register(
            "audit_records",
            "Records of the audit log: written with a change or alone, left out, trimmed",
            self.audit.clone(),
        );
        r.register("commits", "Transactions of the store", self.commits.clone());
        r.register("commit_seconds", "Duration of transactions", self.commit_seconds.clone());
        r.register("lists", "Lists of the store", self.lists.clone());
        r.register("list_seconds", "Duration of lists", self.list_seconds.clone());
        r.register(
            "watch_restarts",
            "Times that the store's watch ended and was begun again",
            self.watch_restarts.clone(),
        );
        r.register(
            "relists",
            "Lists after a watch ended (error) and to compare with memory (timer)",
            self.relists.clone(),
        );
        r.register(
            "relist_differences",
            "Records that were not in memory as in the store",
            self.differences.clone(),
        );
        r.register("sessions", "Edges with a session here", self.sessions.clone());
        r.register("edges", "Edges in the store", self.edges.clone());
        r.register("namespaces", "Namespaces in the store", self.namespaces.clone());
        r.register("prefixes", "Prefixes in the store", self.prefixes.clone());
        r.register(
            "certificate_seconds",
            "Seconds until the controller's certificate expires",
            self.certificate_seconds.clone(),
        );
        r.register(
            "issuer_seconds",
            "Seconds until the controller's issuing CA expires",
            self.issuer_seconds.clone(),
        );
        r.register(
            "expires_seconds",
            "Seconds until the first of a kind expires: root, issuer, controller, edge, admin",
            self.expires_seconds.clone(),
        );
        r.register(
            "expiring",
            "How many of a kind expire soon and were not renewed",
            self.expiring.clone(),
        );
        *self.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
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
        let result = error.map_or("ok", audit::record::result);
        self.calls.get_or_create(&CallLabels { call, result }).inc();
    }

    /// A certificate was asked for: `enrollment`, `renewal`, …
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
    pub fn behind(&self) {
        self.behind.inc();
    }

    /// Records of the audit log: `with_change`, `alone`, `left_out` or `trimmed`.
    pub fn audit(&self, kind: &'static str, records: u64) {
        self.audit.get_or_create(&Kind { kind }).inc_by(records);
    }

    /// Of a kind of what expires: when the first does, in seconds from now, and how many do soon. Without
    /// the first there are none.
    pub fn expiry(&self, kind: &'static str, first: Option<i64>, soon: usize) {
        let label = Kind { kind };
        if let Some(seconds) = first {
            self.expires_seconds.get_or_create(&label).set(seconds);
        } else {
            self.expires_seconds.remove(&label);
        }
        let soon = i64::try_from(soon).unwrap_or(i64::MAX);
        self.expiring.get_or_create(&label).set(soon);
    }

    /// A transaction ended.
    pub fn commit<T>(&self, duration: Duration, result: &Result<T, CommitError>) {
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

    /// The store was listed.
    pub fn list<T>(&self, duration: Duration, result: &Result<T, ReadError>) {
        let result = match result {
            Ok(_) => "ok",
            Err(ReadError::Corrupt(_)) => "corrupt",
            Err(ReadError::Unavailable(_)) => "unavailable",
        };
        self.lists.get_or_create(&Outcome { result }).inc();
        self.list_seconds.observe(duration.as_secs_f64());
    }

    /// The store's watch ended and is begun again.
    pub fn watch_restarted(&self) {
        self.watch_restarts.inc();
    }

    /// All of the store was read again: `error`, `timer`.
    pub fn listed_again(&self, reason: &'static str) {
        self.relists.get_or_create(&Reason { reason }).inc();
    }

    /// So many records were not in memory as in the store.
    pub fn different(&self, records: usize) {
        self.differences.inc_by(records as u64);
    }

    /// Everything as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

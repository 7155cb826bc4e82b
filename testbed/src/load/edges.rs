//! Edges with running sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cframe_pki::Serial;
use cframe_pki::identity::Label;
use cframe_protocol::v1::Version;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fleet::EnrolledEdge;
use super::follower::{Follower, run_follower};
use super::full_edge::{all_links_up, run_full_edge};
use super::observed::{Details, Observed};

/// Edges with their sessions, which end when this is stopped or dropped.
pub(super) struct RunningEdges {
    edges: Vec<EnrolledEdge>,
    observed: Vec<Arc<Observed>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl RunningEdges {
    pub(super) fn start_full(edges: Vec<EnrolledEdge>) -> Self {
        Self::start(edges, run_full_edge)
    }

    /// Starts edges that follow versions, from `have` on, without holding the state; see [`run_follower`].
    pub(super) fn start_followers(edges: Vec<EnrolledEdge>, have: Option<Version>) -> Self {
        Self::start(edges, move |edge, observed, stop| {
            let client = edge.client;
            run_follower(Follower { client, have, toggle: None, links: None }, observed, stop)
        })
    }

    /// Followers that have a problem every second `interval`, and report their links.
    pub(super) fn start_with_problems(
        edges: Vec<EnrolledEdge>,
        have: Option<Version>,
        interval: Duration,
    ) -> Self {
        let names: Vec<Label> = edges.iter().map(|edge| edge.name.clone()).collect();
        Self::start(edges, move |edge, observed, stop| {
            let links = Some(all_links_up(names.iter(), &edge.name, have));
            let follower = Follower { client: edge.client, have, toggle: Some(interval), links };
            run_follower(follower, observed, stop)
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        edges: Vec<EnrolledEdge>,
        run: impl Fn(EnrolledEdge, Arc<Observed>, CancellationToken) -> F,
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let observed: Vec<Arc<Observed>> = edges.iter().map(|_| Arc::default()).collect();
        for (edge, observed) in edges.iter().zip(&observed) {
            tasks.spawn(run(edge.clone(), Arc::clone(observed), stop.clone()));
        }
        tasks.close();
        Self { edges, observed, tasks, stop }
    }

    pub(super) fn len(&self) -> usize {
        self.observed.len()
    }

    /// How many edges have applied `version` or a later one.
    pub(super) fn count_at(&self, version: Version) -> usize {
        self.count(|one| one.applied.is_some_and(|(applied, _)| applied.at_least(&version)))
    }

    /// How many edges know that a certificate is denied.
    pub(super) fn count_denying(&self, serial: Serial) -> usize {
        self.count(|one| one.denied.contains(&serial))
    }

    fn count(&self, which: impl Fn(&Details) -> bool) -> usize {
        self.observed.iter().filter(|one| which(&one.lock())).count()
    }

    /// The sum of a number over all edges.
    pub(super) fn sum(&self, number: impl Fn(&Details) -> u64) -> u64 {
        self.observed.iter().map(|one| number(&one.lock())).sum()
    }

    /// A value of each edge that has it.
    pub(super) fn values<T>(&self, value: impl Fn(&Details) -> Option<T>) -> Vec<T> {
        self.observed.iter().filter_map(|one| value(&one.lock())).collect()
    }

    /// Waits until `count` edges have a session. The error has the reason of one of those without.
    pub(super) async fn wait_online(&self, count: usize, timeout: Duration) -> Result<()> {
        let what = format!("{count} edges with sessions");
        let waited = wait_for(&what, timeout, || self.count(|one| one.connected) >= count).await;
        let ended = || self.values(|one| (!one.connected).then(|| one.ended.clone())).pop();
        waited.with_context(|| ended().unwrap_or_default())
    }

    pub(super) fn is_online(&self, name: &Label) -> bool {
        let mut all = self.edges.iter().zip(&self.observed);
        all.any(|(edge, observed)| edge.name == *name && observed.lock().connected)
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for RunningEdges {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until a condition holds, which is checked every 10 ms.
pub(super) async fn wait_for(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        ensure!(start.elapsed() < timeout, "timed out after {timeout:?} waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

//! Running edges, and what they have seen.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use cframe_pki::Serial;
use cframe_pki::identity::Label;
use cframe_protocol::session::{Command, EdgeSession, Event};
use cframe_protocol::v1::{Desired, LinkReport, Report, Version};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fleet::Member;
use super::follower::follow;
use super::world::until;

/// How often an edge reports, as the real one does.
const REPORT: Duration = Duration::from_secs(10);

/// Edges with their sessions. They end when this is dropped, or by [`stop`](Self::stop).
pub(super) struct Edges {
    pub(super) members: Vec<Member>,
    seen: Vec<Arc<Seen>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What one edge has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    connected: AtomicBool,
    sessions: AtomicU64,
    updates: AtomicU64,
    bytes: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    applied: Option<(Version, Instant)>,
    state: Option<Arc<Desired>>,
    denied: BTreeSet<Serial>,
    ended: String,
}

impl Seen {
    pub(super) fn connected(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, why: &str) {
        self.connected.store(false, Ordering::Relaxed);
        self.lock().ended = why.to_owned();
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn applied(&self, version: Version) {
        self.updates.fetch_add(1, Ordering::Relaxed);
        self.lock().applied = Some((version, Instant::now()));
    }

    pub(super) fn denied(&self, serial: Serial) {
        self.lock().denied.insert(serial);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Edges {
    /// Whole edges: the real session, with the state, and reports of links to all peers.
    pub(super) fn whole(members: Vec<Member>) -> Self {
        Self::start(members, whole)
    }

    /// Edges that follow versions alone, from one that they have; see [`follow`].
    pub(super) fn following(members: Vec<Member>, have: Option<Version>) -> Self {
        Self::start(members, move |member, seen, stop| follow(member.client, have, seen, stop))
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        members: Vec<Member>,
        run: impl Fn(Member, Arc<Seen>, CancellationToken) -> F,
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let seen: Vec<Arc<Seen>> = members.iter().map(|_| Arc::default()).collect();
        for (member, seen) in members.iter().zip(&seen) {
            tasks.spawn(run(member.clone(), Arc::clone(seen), stop.clone()));
        }
        tasks.close();
        Self { members, seen, tasks, stop }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// How many have a session, as they see it.
    pub(super) fn online(&self) -> usize {
        self.seen.iter().filter(|seen| seen.connected.load(Ordering::Relaxed)).count()
    }

    /// How many have applied this version or a later one.
    pub(super) fn at(&self, version: Version) -> usize {
        let at = |seen: &&Arc<Seen>| {
            seen.lock().applied.is_some_and(|(applied, _)| applied.at_least(&version))
        };
        self.seen.iter().filter(at).count()
    }

    /// Waits until so many have a session.
    pub(super) async fn until_online(&self, count: usize, limit: Duration) -> Result<Duration> {
        let what = format!("{count} edges with sessions");
        let waited = until(&what, limit, || self.online() >= count).await;
        waited.map_err(|error| error.context(self.last_end()))
    }

    /// Sessions there have been, of all of them.
    pub(super) fn sessions(&self) -> u64 {
        self.seen.iter().map(|seen| seen.sessions.load(Ordering::Relaxed)).sum()
    }

    /// Updates that were applied, by all of them.
    pub(super) fn updates(&self) -> u64 {
        self.seen.iter().map(|seen| seen.updates.load(Ordering::Relaxed)).sum()
    }

    /// Bytes received on the sessions' streams, by all of them. Followers alone count.
    pub(super) fn bytes(&self) -> u64 {
        self.seen.iter().map(|seen| seen.bytes.load(Ordering::Relaxed)).sum()
    }

    /// When each has applied what it has.
    pub(super) fn applied(&self) -> Vec<Instant> {
        self.seen.iter().filter_map(|seen| Some(seen.lock().applied?.1)).collect()
    }

    /// How many have been told that a certificate is denied.
    pub(super) fn denying(&self, serial: Serial) -> usize {
        self.seen.iter().filter(|seen| seen.lock().denied.contains(&serial)).count()
    }

    /// The states of whole edges.
    pub(super) fn states(&self) -> Vec<Arc<Desired>> {
        self.seen.iter().filter_map(|seen| seen.lock().state.clone()).collect()
    }

    /// Whether one edge has a session.
    pub(super) fn is_online(&self, name: &Label) -> bool {
        let mut all = self.members.iter().zip(&self.seen);
        all.any(|(member, seen)| member.name == *name && seen.connected.load(Ordering::Relaxed))
    }

    /// Why the sessions of those that have none ended, one of them.
    fn last_end(&self) -> String {
        let mut away = self.seen.iter().filter(|seen| !seen.connected.load(Ordering::Relaxed));
        away.next().map(|seen| seen.lock().ended.clone()).unwrap_or_default()
    }

    /// Ends all sessions.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Edges {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn whole(member: Member, seen: Arc<Seen>, stop: CancellationToken) {
    let (events, mut happens) = mpsc::channel(1);
    let (commands, wanted) = mpsc::channel(4);
    let session = EdgeSession::new(member.client, None, "load", rand::random());
    let running = session.run(events, wanted, stop);
    let acting = async {
        let mut report = tokio::time::interval(REPORT);
        report.reset_after(REPORT.mul_f64(rand::random()));
        loop {
            tokio::select! {
                event = happens.recv() => match event {
                    Some(event) => heard(&seen, &commands, event).await,
                    None => return,
                },
                _ = report.tick() => {
                    let report = links(&seen, &member.name);
                    let _ = commands.send(Command::Report(report)).await;
                }
            }
        }
    };
    tokio::join!(running, acting);
}

async fn heard(seen: &Seen, commands: &mpsc::Sender<Command>, event: Event) {
    match event {
        Event::Connected { .. } => seen.connected(),
        Event::Disconnected(error) => seen.ended(&error.to_string()),
        Event::Desired { state, .. } => {
            let version = state.version;
            for entry in &state.denied {
                seen.denied(entry.serial);
            }
            seen.lock().state = Some(state);
            let _ = commands.send(Command::Ack(version)).await;
            seen.applied(version);
        }
        Event::RenewReply(_) | Event::RenewNow | Event::Goodbye(_) => {}
    }
}

/// All links up, as in a mesh that is well.
fn links(seen: &Seen, own: &Label) -> Report {
    let inner = seen.lock();
    let peers = inner.state.iter().flat_map(|state| state.edges.keys()).filter(|name| *name != own);
    let link = |peer: &Label| LinkReport {
        peer: peer.clone(),
        up: true,
        rtt_us: 12_345,
        path_mtu: 1_438,
        since_unix: 1_764_000_000,
    };
    Report {
        links: peers.take(Report::MAX_LINKS).map(link).collect(),
        cert_not_after: 1_800_000_000,
        applied: inner.applied.map(|(version, _)| version),
    }
}

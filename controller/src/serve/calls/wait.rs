//! `--wait`: waits until the edges of a namespace have a version, whichever controllers they are connected to.
//!
//! Each controller counts its own edges and reports every change to the controller that waits. An edge that left without
//! the version still counts for [`MOVE_TIME`]: most likely it is moving to another controller, which counts it next. So do
//! the edges of a controller that is gone, as it last reported them, for [`FAILOVER_TIME`]. A controller that runs and does
//! not answer is named, and waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cframe_pki::identity::Label;
use cframe_protocol::{
    session::CallFailure,
    v1::{Behind, Call, CallError, ErrorCode, Progress, Reply, Version},
};
use tokio::{
    select,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    context::Context,
    decide::{
        check,
        names::{list_names, natural},
        problems::STORE_OLDER_FIX,
        wire_count,
    },
    model::membership::Membership,
    peers,
};

const MAX_WAIT: Duration = Duration::from_secs(600);
/// Between two progress reports: a thousand acknowledgements become a few reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(20);
/// Names of edges in a progress report.
const MAX_NAMES: usize = 20;
/// Seconds for which an edge that left counts as moving to another controller.
const MOVE_TIME: u64 = 3;
/// Seconds that a controller may take to follow the store.
const AHEAD_TIME: u64 = 3;
/// After the start of the only controller, for edges that were connected before.
const RETURN_TIME: Duration = Duration::from_secs(3);
/// For the edges of a controller that is gone: to notice, and to connect to another one.
const FAILOVER_TIME: Duration = Duration::from_secs(5);
/// For the list of controllers that run.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A controller reports to another one at least at this interval.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Before a controller that did not answer is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Waits until all edges have the version, and reports progress.
pub(super) async fn wait(
    context: &Arc<Context>,
    namespace: &Label,
    version: Version,
    timeout_secs: u32,
    replies: &mpsc::Sender<Result<Reply, CallError>>,
) -> Result<(), CallError> {
    let limit = Duration::from_secs(timeout_secs.into()).min(MAX_WAIT);
    let started = Instant::now();
    let deadline = started + limit;
    let mut own_progress = context.replica.sessions.progress();
    let mut others = Others::new(context, namespace, version, timeout_secs);
    let (mut reported, mut reported_unanswered) = (None, Vec::new());
    loop {
        check_store_is_newest(context, namespace)?;
        others.check_store_is_newest()?;
        context.replica.read(|state| check::namespace(state, namespace).map(drop))?;
        own_progress.mark_unchanged();
        others.update();
        let progress = progress(context, namespace, version, &others);
        let unanswered = others.unanswered();
        // Before that, an answer may still come.
        let late = started.elapsed() >= peers::IDLE_TIMEOUT.min(limit);
        if late && reported_unanswered != unanswered {
            reported_unanswered.clone_from(&unanswered);
            if replies.send(Ok(Reply::Unheard(unanswered.clone()))).await.is_err() {
                return Ok(());
            }
        }
        if reported.as_ref() != Some(&progress) {
            reported = Some(progress.clone());
            if replies.send(Ok(Reply::Progress(progress.clone()))).await.is_err() {
                return Ok(());
            }
        }
        let complete = progress.acked == progress.total && unanswered.is_empty();
        if complete && !are_coming_back(context, namespace) {
            return Ok(());
        }
        sleep(REPORT_INTERVAL).await;
        let changed = async {
            select! {
                changed = own_progress.changed() => changed.is_ok(),
                changed = others.changed() => changed,
                () = sleep(POLL_INTERVAL) => true,
            }
        };
        if timeout_at(deadline, changed).await.is_err() {
            if complete {
                return Ok(());
            }
            if reported_unanswered != unanswered {
                // A reader that is gone does not get the error either.
                let _ = replies.send(Ok(Reply::Unheard(unanswered.clone()))).await;
            }
            return Err(timed_out(&progress, version, limit, &unanswered));
        }
    }
}

/// Whether the only controller has just started and its edges have not all connected again. Without them, a store that is
/// older than what they have would not be noticed.
fn are_coming_back(context: &Context, namespace: &Label) -> bool {
    if context.started.elapsed() >= RETURN_TIME || !peers::others(context).is_empty() {
        return false;
    }
    let seen = context.replica.sessions.edges_of(namespace);
    let seen: BTreeSet<&Label> = seen.iter().map(|(name, _)| name).collect();
    context.replica.read(|state| {
        let edges = state.namespaces.get(namespace).into_iter().flat_map(|space| &space.edges);
        let mut missing = edges.filter(|(name, _)| !seen.contains(name));
        missing.any(|(name, edge)| {
            state.membership(namespace, name, &edge.record) == Membership::Joined
        })
    })
}

/// Fails if edges here have a later state than the store for longer than a controller takes to follow it: the store was
/// replaced by an older copy, and no change reaches them, whatever its version.
fn check_store_is_newest(context: &Context, namespace: &Label) -> Result<(), CallError> {
    let newest = context.replica.read(|state| state.version(namespace));
    // A controller that is cut off from the store is behind it.
    let Some(newest) = newest.filter(|_| context.replica.store_problem().is_none()) else {
        return Ok(());
    };
    let settled = context.replica.now().saturating_sub(AHEAD_TIME);
    let edges = context.replica.sessions.edges_of(namespace).into_iter();
    let ahead = edges.filter(|(_, seen)| {
        let later = seen.applied.is_some_and(|applied| !newest.at_least(&applied));
        seen.online && later && seen.detail.applied_since <= settled
    });
    let mut names: Vec<Label> = ahead.map(|(name, _)| name).collect();
    names.sort_by(natural);
    if names.is_empty() { Ok(()) } else { Err(store_is_older(&names)) }
}

fn store_is_older(ahead: &[Label]) -> CallError {
    let mut error = CallError::new(
        ErrorCode::Conflict,
        format!(
            "the store is older than the state of {}, so the change does not reach these edges: the store was replaced by an \
             older copy",
            list_names(ahead)
        ),
    );
    error.hint = Some(STORE_OLDER_FIX.to_owned());
    error
}

fn timed_out(
    progress: &Progress,
    version: Version,
    limit: Duration,
    unanswered: &[Label],
) -> CallError {
    let Progress { acked, total, waiting } = progress;
    let mut message =
        format!("{acked} of {total} connected edges have {version} after {} s", limit.as_secs());
    if !waiting.is_empty() {
        message.push_str(&format!("; waiting for {}", list_names(waiting)));
    }
    if !unanswered.is_empty() {
        let names = list_names(unanswered);
        message
            .push_str(&format!("; no answer of controller {names}, whose edges are not counted"));
    }
    CallError::new(ErrorCode::Unavailable, message)
}

/// Reports to another controller, at every change, how many edges here lack a version; fails if they can never get it.
pub(super) async fn send_behind(
    context: &Context,
    namespace: &Label,
    version: Version,
    timeout_secs: u32,
    replies: &mpsc::Sender<Result<Reply, CallError>>,
) -> Result<(), CallError> {
    let deadline = Instant::now() + Duration::from_secs(timeout_secs.into()).min(MAX_WAIT);
    let mut progress = context.replica.sessions.progress();
    loop {
        progress.mark_unchanged();
        check_store_is_newest(context, namespace)?;
        let OwnEdges { behind, .. } = own_edges(context, namespace, version);
        if replies.send(Ok(Reply::Behind(behind))).await.is_err() || Instant::now() >= deadline {
            return Ok(());
        }
        sleep(REPORT_INTERVAL).await;
        let heartbeat = deadline.min(Instant::now() + HEARTBEAT);
        select! {
            changed = progress.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(heartbeat) => {}
        }
    }
}

/// How far this controller's own edges are.
struct OwnEdges {
    behind: Behind,
    /// Edges that have the version.
    acked: BTreeSet<Label>,
}

fn own_edges(context: &Context, namespace: &Label, version: Version) -> OwnEdges {
    let several = context.replica.read(|state| state.controllers.len() > 1);
    let move_time = if several { MOVE_TIME } else { 0 };
    let gone_since = context.replica.now().saturating_sub(move_time);
    let newest = context.replica.read(|state| state.version(namespace)).unwrap_or_default();
    let mut acked = BTreeSet::new();
    let mut names = Vec::new();
    for (name, seen) in context.replica.sessions.edges_of(namespace) {
        // A later version than the store's is of another line of changes.
        let has = seen.applied.is_some_and(|at| at.at_least(&version) && newest.at_least(&at));
        if has && seen.online {
            acked.insert(name);
        } else if !has && (seen.online || (several && seen.since >= gone_since)) {
            names.push(name);
        }
    }
    let behind = wire_count(names.len());
    let total = wire_count(acked.len()).saturating_add(behind);
    names.sort_by(natural);
    names.truncate(Behind::MAX_NAMES);
    OwnEdges { behind: Behind { total, behind, names }, acked }
}

/// Merges the reports. An edge that lacks the version at one controller and has it at another has moved.
fn progress(context: &Context, namespace: &Label, version: Version, others: &Others) -> Progress {
    let OwnEdges { behind: own, acked } = own_edges(context, namespace, version);
    let (mut total, mut behind) = (own.total, own.behind);
    let mut waiting: BTreeSet<Label> = own.names.into_iter().collect();
    for (name, report) in others.reports() {
        let Some(there) = report.last else { continue };
        let moved = |name: &&Label| acked.contains(*name) || waiting.contains(*name);
        let moved = wire_count(there.names.iter().filter(moved).count());
        let lacking = there.behind.saturating_sub(moved);
        // Edges of a controller that is gone which had the version are connected elsewhere by now, or offline.
        let gone = others.gone.contains_key(&name);
        let all = if gone { lacking } else { there.total.saturating_sub(moved) };
        total = total.saturating_add(all);
        behind = behind.saturating_add(lacking);
        waiting.extend(there.names.into_iter().filter(|name| !acked.contains(name)));
    }
    let mut waiting: Vec<Label> = waiting.into_iter().collect();
    waiting.sort_by(natural);
    waiting.truncate(MAX_NAMES);
    Progress { acked: total.saturating_sub(behind), total, waiting }
}

/// What another controller reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Report {
    last: Option<Behind>,
    /// Whether it answers now.
    answers: bool,
    /// Why its edges can never get the version.
    refusal: Option<CallError>,
}

type Reports = BTreeMap<Label, Report>;

/// The other controllers. A task for each receives its reports.
struct Others<'a> {
    context: &'a Arc<Context>,
    call: Call,
    reports: watch::Sender<Reports>,
    changes: watch::Receiver<Reports>,
    tasks: JoinSet<()>,
    /// Controllers that are gone, until the time at which their edges should be connected elsewhere.
    gone: BTreeMap<Label, Instant>,
}

impl<'a> Others<'a> {
    fn new(
        context: &'a Arc<Context>,
        namespace: &Label,
        version: Version,
        timeout_secs: u32,
    ) -> Self {
        let (reports, changes) = watch::channel(Reports::new());
        let call = Call::Behind { namespace: namespace.clone(), version, timeout_secs };
        Self { context, call, reports, changes, tasks: JoinSet::new(), gone: BTreeMap::new() }
    }

    /// Follows controllers that have started, and forgets those that have been gone for long enough.
    fn update(&mut self) {
        self.changes.mark_unchanged();
        let running: BTreeSet<Label> = peers::others(self.context).into_iter().collect();
        let now = Instant::now();
        let followed: Vec<Label> = self.reports().into_keys().collect();
        for name in followed.into_iter().filter(|name| !running.contains(name)) {
            if *self.gone.entry(name.clone()).or_insert(now + FAILOVER_TIME) <= now {
                self.gone.remove(&name);
                self.reports.send_modify(|reports| drop(reports.remove(&name)));
            }
        }
        for name in running {
            self.gone.remove(&name);
            if !self.reports().contains_key(&name) {
                self.reports.send_modify(|reports| {
                    reports.insert(name.clone(), Report::default());
                });
                let follow =
                    follow(Arc::clone(self.context), name, self.call.clone(), self.reports.clone());
                self.tasks.spawn(follow);
            }
        }
    }

    /// Controllers whose edges are not known: they do not answer, or are gone and never reported.
    fn unanswered(&self) -> Vec<Label> {
        let known = |(name, report): &(Label, Report)| match self.gone.contains_key(name) {
            true => report.last.is_some(),
            false => report.answers,
        };
        let silent = self.reports().into_iter().filter(|report| !known(report));
        silent.map(|(name, _)| name).collect()
    }

    fn check_store_is_newest(&self) -> Result<(), CallError> {
        let refusal = self.reports.borrow().values().find_map(|report| report.refusal.clone());
        refusal.map_or(Ok(()), Err)
    }

    fn reports(&self) -> Reports {
        self.reports.borrow().clone()
    }

    async fn changed(&mut self) -> bool {
        self.changes.changed().await.is_ok()
    }
}

/// Receives the reports of one controller, until the wait ends or the controller has been gone for long enough.
async fn follow(context: Arc<Context>, name: Label, call: Call, reports: watch::Sender<Reports>) {
    let set_report = |change: &dyn Fn(&mut Report)| {
        reports.send_if_modified(|reports| {
            let Some(report) = reports.get_mut(&name) else { return false };
            let before = report.clone();
            change(report);
            *report != before
        })
    };
    while reports.borrow().contains_key(&name) {
        if let Ok(mut replies) = peers::open(&context, &name, call.clone()).await {
            let end = loop {
                match peers::next(&mut replies).await {
                    Ok(Some(Reply::Behind(behind))) => {
                        set_report(&|report| {
                            report.last = Some(behind.clone());
                            report.answers = true;
                        });
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(failure) => break Some(failure),
                }
            };
            if let Some(CallFailure::Refused(error)) = end
                && error.code == ErrorCode::Conflict
            {
                set_report(&|report| report.refusal = Some(error.clone()));
            }
        }
        set_report(&|report| report.answers = false);
        sleep(RETRY_DELAY).await;
    }
}

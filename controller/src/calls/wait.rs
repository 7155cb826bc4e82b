//! `--wait`: until the edges of a namespace have a version, whichever controller each is connected to.
//!
//! Each controller counts its own edges, and tells whoever waits at every change. An edge that has left without
//! the version counts on for [`ON_ITS_WAY`]: most likely it is moving to another controller, where it would be
//! counted next. So do, for [`MOVE`], those that a controller had by its last word before it was gone. A
//! controller that runs and does not answer is named, and waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Behind, Call, CallError, ErrorCode, Progress, Reply, Version};
use tokio::{
    select,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{count, namespace};
use crate::{check, peers, presence, server::Context};

/// The longest that a wait may take.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Between two progress reports: a thousand acknowledgements are a few reports.
const PACE: Duration = Duration::from_millis(20);
/// Names of edges in one progress report.
const MAX_WAITING: usize = 20;
/// How long an edge that left may take to be with another controller, in seconds.
const ON_ITS_WAY: u64 = 3;
/// How long the edges of a controller that is gone may take to notice and to be with another one.
const MOVE: Duration = Duration::from_secs(5);
/// How often it is looked which controllers run.
const LOOK: Duration = Duration::from_millis(250);
/// The least that a controller tells another one how far its edges are.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The pause before a controller that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// Waits until all have it, telling how far they are.
pub(super) async fn wait(
    context: &Arc<Context>,
    namespace: &Label,
    version: Version,
    timeout_secs: u32,
    replies: &mpsc::Sender<Result<Reply, CallError>>,
) -> Result<(), CallError> {
    let limit = Duration::from_secs(timeout_secs.into()).min(MAX_WAIT);
    let begun = Instant::now();
    let deadline = begun + limit;
    let mut word = context.mesh.sessions.progress();
    let mut others = Others::new(context, namespace, version, timeout_secs);
    let (mut told, mut told_unheard) = (None, Vec::new());
    loop {
        context.mesh.read(|state| check::namespace(state, namespace).map(drop))?;
        word.mark_unchanged();
        others.look();
        let progress = progress(context, namespace, version, &others);
        let unheard = others.unheard();
        // Before that, they are only being asked.
        let late = begun.elapsed() >= peers::SILENCE.min(limit);
        if late && told_unheard != unheard {
            told_unheard.clone_from(&unheard);
            if replies.send(Ok(Reply::Unheard(unheard.clone()))).await.is_err() {
                return Ok(());
            }
        }
        if told.as_ref() != Some(&progress) {
            told = Some(progress.clone());
            if replies.send(Ok(Reply::Progress(progress.clone()))).await.is_err() {
                return Ok(());
            }
        }
        if progress.acked == progress.total && unheard.is_empty() {
            return Ok(());
        }
        sleep(PACE).await;
        let changed = async {
            select! {
                changed = word.changed() => changed.is_ok(),
                changed = others.changed() => changed,
                () = sleep(LOOK) => true,
            }
        };
        if timeout_at(deadline, changed).await.is_err() {
            if told_unheard != unheard {
                // A reader that has gone needs no error either.
                let _ = replies.send(Ok(Reply::Unheard(unheard.clone()))).await;
            }
            return Err(timed_out(&progress, version, limit, &unheard));
        }
    }
}

fn timed_out(
    progress: &Progress,
    version: Version,
    limit: Duration,
    unheard: &[Label],
) -> CallError {
    let Progress { acked, total, waiting } = progress;
    let mut message =
        format!("{acked} of {total} connected edges have {version} after {} s", limit.as_secs());
    if !waiting.is_empty() {
        message.push_str(&format!("; waiting for {}", namespace::some(waiting.iter())));
    }
    if !unheard.is_empty() {
        let names = namespace::some(unheard.iter());
        message
            .push_str(&format!("; no answer of controller {names}, whose edges are not counted"));
    }
    CallError::new(ErrorCode::Unavailable, message)
}

/// Tells another controller, at every change, which edges here lack a version.
pub(super) async fn tell(
    context: &Context,
    namespace: &Label,
    version: Version,
    timeout_secs: u32,
    replies: &mpsc::Sender<Result<Reply, CallError>>,
) -> Result<(), CallError> {
    let deadline = Instant::now() + Duration::from_secs(timeout_secs.into()).min(MAX_WAIT);
    let mut word = context.mesh.sessions.progress();
    loop {
        word.mark_unchanged();
        let Here { behind, .. } = here(context, namespace, version);
        if replies.send(Ok(Reply::Behind(behind))).await.is_err() || Instant::now() >= deadline {
            return Ok(());
        }
        sleep(PACE).await;
        let beat = deadline.min(Instant::now() + HEARTBEAT);
        select! {
            changed = word.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(beat) => {}
        }
    }
}

/// How far this controller's own edges are.
struct Here {
    behind: Behind,
    /// Those that have it.
    acked: BTreeSet<Label>,
}

fn here(context: &Context, namespace: &Label, version: Version) -> Here {
    let several = context.mesh.read(|state| state.controllers.len() > 1);
    let patience = if several { ON_ITS_WAY } else { 0 };
    let gone_since = context.mesh.now().saturating_sub(patience);
    let mut acked = BTreeSet::new();
    let mut names = Vec::new();
    for (name, seen) in context.mesh.sessions.of(namespace) {
        let has = seen.applied.is_some_and(|at| at.at_least(&version));
        if has && seen.online {
            acked.insert(name);
        } else if !has && (seen.online || (several && seen.since >= gone_since)) {
            names.push(name);
        }
    }
    let behind = count(names.len());
    let total = count(acked.len()).saturating_add(behind);
    names.sort();
    names.truncate(Behind::MAX_NAMES);
    Here { behind: Behind { total, behind, names }, acked }
}

/// An edge that is behind in one place and up to date in another has moved.
fn progress(context: &Context, namespace: &Label, version: Version, others: &Others) -> Progress {
    let Here { behind: own, acked } = here(context, namespace, version);
    let (mut total, mut behind) = (own.total, own.behind);
    let mut waiting: BTreeSet<Label> = own.names.into_iter().collect();
    for (name, told) in others.reports() {
        let Some(there) = told.last else { continue };
        let moved = |name: &&Label| acked.contains(*name) || waiting.contains(*name);
        let moved = count(there.names.iter().filter(moved).count());
        let lacking = there.behind.saturating_sub(moved);
        // Of one that is gone, those that have the version are elsewhere by now, or off.
        let gone = others.gone.contains_key(&name);
        let all = if gone { lacking } else { there.total.saturating_sub(moved) };
        total = total.saturating_add(all);
        behind = behind.saturating_add(lacking);
        waiting.extend(there.names.into_iter().filter(|name| !acked.contains(name)));
    }
    let waiting = waiting.into_iter().take(MAX_WAITING).collect();
    Progress { acked: total.saturating_sub(behind), total, waiting }
}

/// What another controller tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    /// Its last word, if there was any.
    last: Option<Behind>,
    /// Whether it answers now.
    answers: bool,
}

type Reports = BTreeMap<Label, Told>;

/// The other controllers: a task for each, which hears how far its edges are.
struct Others<'a> {
    context: &'a Arc<Context>,
    call: Call,
    reports: watch::Sender<Reports>,
    word: watch::Receiver<Reports>,
    tasks: JoinSet<()>,
    /// Those that ran and are gone, until their edges must be elsewhere.
    gone: BTreeMap<Label, Instant>,
}

impl<'a> Others<'a> {
    fn new(
        context: &'a Arc<Context>,
        namespace: &Label,
        version: Version,
        timeout_secs: u32,
    ) -> Self {
        let (reports, word) = watch::channel(Reports::new());
        let call = Call::Behind { namespace: namespace.clone(), version, timeout_secs };
        Self { context, call, reports, word, tasks: JoinSet::new(), gone: BTreeMap::new() }
    }

    /// Begins to follow those that have come, and forgets those that have gone for long enough.
    fn look(&mut self) {
        self.word.mark_unchanged();
        let running: BTreeSet<Label> = presence::others(self.context).into_iter().collect();
        let now = Instant::now();
        let followed: Vec<Label> = self.reports().into_keys().collect();
        for name in followed.into_iter().filter(|name| !running.contains(name)) {
            if *self.gone.entry(name.clone()).or_insert(now + MOVE) <= now {
                self.gone.remove(&name);
                self.reports.send_modify(|reports| drop(reports.remove(&name)));
            }
        }
        for name in running {
            self.gone.remove(&name);
            if !self.reports().contains_key(&name) {
                self.reports.send_modify(|reports| {
                    reports.insert(name.clone(), Told::default());
                });
                let follow =
                    follow(Arc::clone(self.context), name, self.call.clone(), self.reports.clone());
                self.tasks.spawn(follow);
            }
        }
    }

    /// Those whose edges are not known: they don't answer, or have gone without a word.
    fn unheard(&self) -> Vec<Label> {
        let known = |(name, told): &(Label, Told)| match self.gone.contains_key(name) {
            true => told.last.is_some(),
            false => told.answers,
        };
        let silent = self.reports().into_iter().filter(|told| !known(told));
        silent.map(|(name, _)| name).collect()
    }

    fn reports(&self) -> Reports {
        self.reports.borrow().clone()
    }

    async fn changed(&mut self) -> bool {
        self.word.changed().await.is_ok()
    }
}

/// Hears one controller for as long as the wait takes, or until it is not one of those that run.
async fn follow(context: Arc<Context>, name: Label, call: Call, reports: watch::Sender<Reports>) {
    let tell = |behind: Option<Behind>| {
        reports.send_if_modified(|reports| {
            let Some(told) = reports.get_mut(&name) else { return false };
            let answers = behind.is_some();
            let news = Told { last: behind.or_else(|| told.last.clone()), answers };
            let changed = *told != news;
            *told = news;
            changed
        })
    };
    while reports.borrow().contains_key(&name) {
        if let Ok(mut replies) = peers::open(&context, &name, call.clone()).await {
            while let Ok(Some(reply)) = peers::next(&mut replies).await {
                if let Reply::Behind(behind) = reply {
                    tell(Some(behind));
                }
            }
        }
        tell(None);
        sleep(AGAIN).await;
    }
}

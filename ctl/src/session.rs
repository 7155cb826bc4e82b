//! One run of a command: its terminal, its controller, and the flags that every command has.

use std::{path::PathBuf, time::Duration};

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, Changed, EdgeRow, Progress, Reply, RouteRow, Version};

use crate::{
    console::{Console, count},
    controller::{Controller, kind, one, rows},
    failure::{Exit, Failure},
    moment::short,
    view::{Change, List, One, Row, Subject},
};

/// One run of a command.
pub struct Session<'a, 'io, C> {
    /// The terminal.
    pub console: &'a mut Console<'io>,
    /// The controller.
    pub controller: C,
    /// What the flags say.
    pub terms: Terms,
    /// The context in use: its file and its name there.
    pub context: Option<(PathBuf, String)>,
}

/// What the flags say that every command has.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Of `-n`, or the context.
    pub namespace: Option<Label>,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--yes`.
    pub yes: bool,
    /// `--wait`.
    pub wait: bool,
    /// `--timeout`.
    pub timeout: Duration,
    /// The time, in Unix seconds.
    pub now: u64,
}

/// How consent to what breaks traffic is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// It is, by `--yes`.
    Given,
    /// A person is there to be asked, or, by a dry run, only to be told.
    ToAsk,
}

/// The edges that a change concerns, which `--wait` waits for.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// None.
    Nobody,
    /// Those of one namespace.
    Namespace(Label),
    /// All.
    Mesh,
}

impl<C: Controller> Session<'_, '_, C> {
    /// The namespace, for commands that need one.
    pub(crate) fn namespace(&self) -> Result<Label, Failure> {
        self.terms.namespace.clone().ok_or_else(|| {
            Failure::new(Exit::Usage, "no namespace is given")
                .hint("add -n NAME, or cfctl context set --default-namespace NAME")
        })
    }

    /// The namespace to list, or all.
    pub(crate) fn scope(&self, all: bool) -> Option<Label> {
        self.terms.namespace.clone().filter(|_| !all)
    }

    /// A call that changes nothing.
    pub(crate) async fn ask(&mut self, call: Call) -> Result<Vec<Reply>, Failure> {
        self.controller.call(call, false).await
    }

    /// The edges of a namespace, or of all. What comes in two rows is one.
    pub(crate) async fn edges(&mut self, call: Call) -> Result<Vec<EdgeRow>, Failure> {
        let mut edges: Vec<EdgeRow> = Vec::new();
        for row in rows(self.ask(call).await?, kind!(Edges))? {
            match edges.last_mut() {
                Some(last) if last.namespace == row.namespace && last.name == row.name => {
                    last.links.extend(row.links);
                }
                Some(_) | None => edges.push(row),
            }
        }
        Ok(edges)
    }

    /// The edges and the routes of a namespace, to tell what a change would break.
    pub(crate) async fn site(
        &mut self,
        namespace: &Label,
    ) -> Result<(Vec<EdgeRow>, Vec<RouteRow>), Failure> {
        let namespace = Some(namespace.clone());
        let edges = self.edges(Call::EdgeList { namespace: namespace.clone() }).await?;
        let routes = rows(self.ask(Call::RouteList { namespace }).await?, kind!(Routes))?;
        Ok((edges, routes))
    }

    /// Finds out how consent to what breaks traffic is to be had, before anything is sent.
    pub(crate) fn consent(&self, action: &str) -> Result<Consent, Failure> {
        if self.terms.dry_run {
            return Ok(Consent::ToAsk);
        }
        if self.terms.yes {
            return Ok(Consent::Given);
        }
        self.console.askable(action).map(|()| Consent::ToAsk)
    }

    /// Says what would break, and asks whether to go on; a dry run goes on.
    pub(crate) async fn confirm(&mut self, impact: &[String]) -> Result<(), Failure> {
        if self.terms.dry_run {
            self.console.tell(impact);
            return Ok(());
        }
        self.controller.rest().await;
        self.console.confirm(impact)
    }

    pub(crate) fn list<T: Row>(&mut self, items: &[T]) -> Result<Exit, Failure> {
        self.console.answer(&List { items, now: self.terms.now })?;
        Ok(Exit::Done)
    }

    pub(crate) fn one<T: Row>(&mut self, item: &T) -> Result<Exit, Failure> {
        self.console.answer(&One { item, now: self.terms.now })?;
        Ok(Exit::Done)
    }

    /// Makes a change, says so, and waits if that is asked for.
    pub(crate) async fn change(
        &mut self,
        call: Call,
        subject: Subject,
        change: &'static str,
        reach: Reach,
    ) -> Result<Exit, Failure> {
        let changed = self.apply(call).await?;
        let version = changed.version;
        let change = self.made(subject, change, changed);
        self.tell(&[change])?;
        self.settle(reach, version).await
    }

    /// Makes a change and says nothing.
    pub(crate) async fn apply(&mut self, call: Call) -> Result<Changed, Failure> {
        one(self.controller.call(call, self.terms.dry_run).await?, kind!(Changed))
    }

    /// Says what a call would have made that was only rehearsed; it is answered like a change.
    pub(crate) fn rehearsed(
        &mut self,
        replies: Vec<Reply>,
        subject: Subject,
        change: &'static str,
    ) -> Result<Exit, Failure> {
        let changed = one(replies, kind!(Changed))?;
        let change = self.made(subject, change, changed);
        self.tell(&[change])?;
        Ok(Exit::Done)
    }

    pub(crate) fn made(&self, subject: Subject, change: &'static str, changed: Changed) -> Change {
        let Changed { version, warnings } = changed;
        Change { subject, change, dry_run: self.terms.dry_run, version, warnings }
    }

    /// Says what was changed: as data one object, or an array of several.
    pub(crate) fn tell(&mut self, changes: &[Change]) -> Result<(), Failure> {
        for change in changes {
            for warning in &change.warnings {
                self.console.warn(warning);
            }
            self.console.note(&change.to_string());
        }
        match changes {
            _ if !self.console.structured() => Ok(()),
            [change] => self.console.data(change),
            changes => self.console.data(&changes),
        }
    }

    /// Waits until the edges concerned have a version, if `--wait` is given.
    pub(crate) async fn settle(&mut self, reach: Reach, version: Version) -> Result<Exit, Failure> {
        if !self.terms.wait || self.terms.dry_run {
            return Ok(Exit::Done);
        }
        match reach {
            Reach::Nobody => {}
            Reach::Namespace(namespace) => self.wait(namespace, version).await?,
            Reach::Mesh => {
                for row in rows(self.ask(Call::NamespaceList).await?, kind!(Namespaces))? {
                    // A change of the mesh leaves the namespaces' own revisions alone.
                    let version = Version { namespace: 0, ..version };
                    self.wait(row.name, version).await?;
                }
            }
        }
        Ok(Exit::Done)
    }

    async fn wait(&mut self, namespace: Label, version: Version) -> Result<(), Failure> {
        let limit = self.terms.timeout;
        let timeout_secs = u32::try_from(limit.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        let call = Call::Wait { namespace: namespace.clone(), version, timeout_secs };
        let mut progress = Progress::default();
        let mut unheard = Vec::new();
        let Self { console, controller, .. } = self;
        let outcome = controller
            .watch(call, &mut |reply| {
                if let Reply::Unheard(names) = reply {
                    unheard = names;
                } else if let Reply::Progress(news) = reply {
                    progress = news;
                }
                console.progress(&waiting(&progress, &unheard));
            })
            .await;
        console.progress_done();
        outcome?;
        if progress.acked < progress.total || !unheard.is_empty() {
            let message = format!("after {} {}", short(limit), waiting(&progress, &unheard));
            return Err(Failure::new(Exit::Unhealthy, message).hint(format!(
                "the change stands; look at `cfctl edge list -n {namespace}`, or wait longer with \
                 --timeout"
            )));
        }
        console.note(&match progress.total {
            0 => format!("no edge of {namespace} is connected; each gets it when it is"),
            total => format!(
                "{} of {namespace} connected, and all have it",
                count(total as usize, "edge")
            ),
        });
        Ok(())
    }
}

/// `unheard` are controllers that do not answer.
fn waiting(progress: &Progress, unheard: &[Label]) -> String {
    const NAMED: usize = 5;
    let Progress { acked, total, waiting } = progress;
    let names: Vec<&str> = waiting.iter().take(NAMED).map(Label::as_str).collect();
    let missing = (total - acked.min(total)) as usize;
    let more = if missing > names.len() { ", …" } else { "" };
    let mut text = match names.as_slice() {
        [] => format!("{acked} of {total} edges have it"),
        names => format!("{acked} of {total} edges have it, without {}{more}", names.join(", ")),
    };
    if !unheard.is_empty() {
        let names: Vec<&str> = unheard.iter().map(Label::as_str).collect();
        text.push_str(&format!("; no answer of controller {}", names.join(", ")));
    }
    text
}

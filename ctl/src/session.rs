//! One run of a command: its terminal, its controller, and the flags that every command has.

use std::{path::PathBuf, time::Duration};

use cframe_console::exit::Exit;
use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, Changed, EdgeRow, Progress, Reply, RouteRow, Version};

use crate::{
    console::{Console, count},
    controller::{Controller, kind, one},
    failure::Failure,
    timestamp::short,
    view::{Change, List, One, Row, Subject},
};

pub struct Session<'a, 'io, C> {
    pub console: &'a mut Console<'io>,
    pub controller: C,
    pub options: Options,
    /// The context in use: its file, and its name there.
    pub context: Option<(PathBuf, String)>,
}

/// Values of the global flags.
#[derive(Clone, Debug)]
pub struct Options {
    /// From `-n`, or the context's default.
    pub namespace: Option<Label>,
    pub dry_run: bool,
    pub yes: bool,
    pub wait: bool,
    pub timeout: Duration,
    /// The time now, in Unix seconds.
    pub now: u64,
}

/// Whether a person must confirm what breaks traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Given by `--yes`.
    Given,
    /// Must be asked for. A dry run only prints what would break.
    Needed,
}

/// The edges that `--wait` waits for.
#[derive(Clone, Debug)]
pub(crate) enum WaitFor {
    Nobody,
    Namespace(Label),
    Mesh,
}

impl<C: Controller> Session<'_, '_, C> {
    /// The namespace, for commands that need one.
    pub(crate) fn namespace(&self) -> Result<Label, Failure> {
        self.options.namespace.clone().ok_or_else(|| {
            Failure::new(Exit::Usage, "no namespace is given")
                .hint("add -n NAME, or cfctl context set --default-namespace NAME")
        })
    }

    /// The namespace to list; `None` lists all.
    pub(crate) fn scope(&self, all: bool) -> Option<Label> {
        self.options.namespace.clone().filter(|_| !all)
    }

    /// Makes a call that changes nothing.
    pub(crate) async fn query<T>(
        &mut self,
        call: Call,
        kind: impl Fn(Reply) -> Option<T>,
    ) -> Result<T, Failure> {
        one(self.controller.call(call, false).await?, kind)
    }

    /// The edges and the routes of a namespace.
    pub(crate) async fn edges_and_routes(
        &mut self,
        namespace: &Label,
    ) -> Result<(Vec<EdgeRow>, Vec<RouteRow>), Failure> {
        let namespace = Some(namespace.clone());
        let list = Call::EdgeList { namespace: namespace.clone() };
        let edges = self.query(list, kind!(Edges)).await?;
        let routes = self.query(Call::RouteList { namespace }, kind!(Routes)).await?;
        Ok((edges, routes))
    }

    /// Finds out whether a person must confirm, before anything is sent.
    pub(crate) fn consent(&self, action: &str) -> Result<Consent, Failure> {
        if self.options.dry_run {
            return Ok(Consent::Needed);
        }
        if self.options.yes {
            return Ok(Consent::Given);
        }
        self.console.require_terminal(action).map(|()| Consent::Needed)
    }

    /// Prints what would break, and asks whether to continue. A dry run only prints.
    pub(crate) async fn confirm(&mut self, impact: &[String]) -> Result<(), Failure> {
        if self.options.dry_run {
            self.console.print_impact(impact);
            return Ok(());
        }
        self.controller.disconnect().await;
        self.console.confirm(impact)
    }

    pub(crate) fn list<T: Row>(&mut self, rows: Vec<impl Into<T>>) -> Result<Exit, Failure> {
        let items: Vec<T> = rows.into_iter().map(Into::into).collect();
        self.console.answer(&List { items: &items, now: self.options.now })?;
        Ok(Exit::Done)
    }

    pub(crate) fn one<T: Row>(&mut self, item: &T) -> Result<Exit, Failure> {
        self.console.answer(&One { item, now: self.options.now })?;
        Ok(Exit::Done)
    }

    /// Makes a change, prints it, and waits for the edges if `--wait` is given.
    pub(crate) async fn make_change(
        &mut self,
        call: Call,
        subject: Subject,
        change: &'static str,
        wait_for: WaitFor,
    ) -> Result<Exit, Failure> {
        let changed = self.send_change(call).await?;
        let version = changed.version;
        let change = self.describe_change(subject, change, changed);
        self.print_changes(&[change])?;
        self.wait(wait_for, version).await
    }

    /// Makes a change and prints nothing.
    pub(crate) async fn send_change(&mut self, call: Call) -> Result<Changed, Failure> {
        one(self.controller.call(call, self.options.dry_run).await?, kind!(Changed))
    }

    /// The controller's warnings about a change, before it is made. None in a dry run, which prints them
    /// later.
    pub(crate) async fn warnings_before(&mut self, call: Call) -> Result<Vec<String>, Failure> {
        if self.options.dry_run {
            return Ok(Vec::new());
        }
        Ok(one(self.controller.call(call, true).await?, kind!(Changed))?.warnings)
    }

    /// Prints what a call would have made, as a change.
    pub(crate) fn print_dry_run(
        &mut self,
        replies: Vec<Reply>,
        subject: Subject,
        change: &'static str,
    ) -> Result<Exit, Failure> {
        let changed = one(replies, kind!(Changed))?;
        let change = self.describe_change(subject, change, changed);
        self.print_changes(&[change])?;
        Ok(Exit::Done)
    }

    pub(crate) fn describe_change(
        &self,
        subject: Subject,
        change: &'static str,
        changed: Changed,
    ) -> Change {
        let Changed { version, warnings } = changed;
        Change { subject, change, dry_run: self.options.dry_run, version, warnings }
    }

    /// Prints changes. As data, one is an object and several are an array.
    pub(crate) fn print_changes(&mut self, changes: &[Change]) -> Result<(), Failure> {
        for change in changes {
            for warning in &change.warnings {
                self.console.warn(warning);
            }
            self.console.info(&change.to_string());
        }
        match changes {
            _ if !self.console.structured() => Ok(()),
            [change] => self.console.data(change),
            changes => self.console.data(&changes),
        }
    }

    /// With `--wait`: waits until the edges have a version.
    pub(crate) async fn wait(
        &mut self,
        wait_for: WaitFor,
        version: Version,
    ) -> Result<Exit, Failure> {
        if !self.options.wait || self.options.dry_run {
            return Ok(Exit::Done);
        }
        match wait_for {
            WaitFor::Nobody => {}
            WaitFor::Namespace(namespace) => self.wait_for_edges(namespace, version).await?,
            WaitFor::Mesh => {
                for row in self.query(Call::NamespaceList, kind!(Namespaces)).await? {
                    // A change of the mesh does not change the namespaces' own revisions.
                    let version = Version { namespace: 0, ..version };
                    self.wait_for_edges(row.name, version).await?;
                }
            }
        }
        Ok(Exit::Done)
    }

    async fn wait_for_edges(&mut self, namespace: Label, version: Version) -> Result<(), Failure> {
        let timeout = self.options.timeout;
        let timeout_secs = u32::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        let call = Call::Wait { namespace: namespace.clone(), version, timeout_secs };
        let mut progress = Progress::default();
        let mut silent = Vec::new();
        let Self { console, controller, .. } = self;
        let outcome = controller
            .watch(call, &mut |reply| {
                if let Reply::Unheard(names) = reply {
                    silent = names;
                } else if let Reply::Progress(news) = reply {
                    progress = news;
                }
                console.progress(&describe_progress(&progress, &silent));
            })
            .await;
        console.clear_progress();
        // The store is older than the edges' state.
        outcome.map_err(|failure| match failure.exit == Exit::Conflict {
            true => Failure { exit: Exit::Unhealthy, ..failure },
            false => failure,
        })?;
        if progress.acked < progress.total || !silent.is_empty() {
            let progress = describe_progress(&progress, &silent);
            let message = format!("after {}: {progress}", short(timeout));
            return Err(Failure::new(Exit::Unhealthy, message).hint(format!(
                "the change is made; see `cfctl edge list -n {namespace}`, or wait longer with --timeout"
            )));
        }
        console.info(&match progress.total {
            0 => format!(
                "no edge of {namespace} is connected; each gets the change when it connects"
            ),
            total => format!(
                "{} of {namespace} connected, and all have it",
                count(total as usize, "edge")
            ),
        });
        Ok(())
    }
}

/// `silent` are controllers that do not answer.
fn describe_progress(progress: &Progress, silent: &[Label]) -> String {
    const MAX_NAMES: usize = 5;
    let Progress { acked, total, waiting } = progress;
    let names: Vec<&str> = waiting.iter().take(MAX_NAMES).map(Label::as_str).collect();
    let missing = (total - acked.min(total)) as usize;
    let more = if missing > names.len() { ", …" } else { "" };
    let mut text = format!("{acked} of {total} edges have it");
    if !names.is_empty() {
        text.push_str(&format!(", waiting for {}{more}", names.join(", ")));
    }
    if !silent.is_empty() {
        let names: Vec<&str> = silent.iter().map(Label::as_str).collect();
        text.push_str(&format!("; controller {} does not answer", names.join(", ")));
    }
    text
}

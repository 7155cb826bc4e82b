use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::Context as _;
use cframe_console::exit::Exit;
use cframe_pki::{
    Fingerprint,
    identity::{Role, SpiffeId},
    issue::{CaCertificate, read_certificate},
};
use cframe_protocol::v1::{CaStatus, Call, HolderRow};
use tokio::time::{Instant, sleep};

use crate::{
    args::{CaVerb, RotateVerb},
    console::count,
    context::Contexts,
    controller::{Controller, kind, one},
    failure::Failure,
    renewal,
    session::{Consent, Session, WaitFor},
    timestamp::short,
    view::{Authorities, Renewed, Subject},
};

/// Pause between edges that are asked to renew: each then opens its links again.
const RENEW_INTERVAL: Duration = Duration::from_millis(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: CaVerb,
) -> Result<Exit, Failure> {
    match verb {
        CaVerb::Show => {
            let status = session.query(Call::CaStatus, kind!(Ca)).await?;
            session.console.answer(&Authorities::new(status, false, session.options.now))?;
            Ok(Exit::Done)
        }
        CaVerb::Status => show_status(session).await,
        CaVerb::Rotate(RotateVerb::Add { file }) => add(session, &file).await,
        CaVerb::Rotate(RotateVerb::Renew) => renew(session).await,
        CaVerb::Rotate(RotateVerb::Drop { fingerprint }) => drop_root(session, fingerprint).await,
    }
}

async fn show_status<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<Exit, Failure> {
    let deadline = Instant::now() + session.options.timeout;
    let edges_missing = |status: &CaStatus| {
        let missing = status.roots.iter().map(|root| root.edges - root.have.min(root.edges));
        missing.max().unwrap_or(0) as usize
    };
    let mut status = session.query(Call::CaStatus, kind!(Ca)).await?;
    while session.options.wait && edges_missing(&status) > 0 && Instant::now() < deadline {
        let missing = count(edges_missing(&status), "edge");
        session.console.progress(&format!("{missing} without the whole trust bundle"));
        sleep(POLL_INTERVAL).await;
        status = session.query(Call::CaStatus, kind!(Ca)).await?;
    }
    session.console.clear_progress();
    let missing = edges_missing(&status);
    session.console.answer(&Authorities::new(status, true, session.options.now))?;
    if session.options.wait && missing > 0 {
        let missing = count(missing, "edge");
        let timeout = short(session.options.timeout);
        return Err(Failure::new(
            Exit::Unhealthy,
            format!("after {timeout}: {missing} not known to have the whole trust bundle"),
        )
        .hint("offline edges get it when they reconnect; wait longer with --timeout"));
    }
    Ok(Exit::Done)
}

async fn add<C: Controller>(
    session: &mut Session<'_, '_, C>,
    file: &Path,
) -> Result<Exit, Failure> {
    let der = read_certificate(file).map_err(anyhow::Error::from)?;
    let root = CaCertificate::root(&der)
        .with_context(|| format!("{} is not a mesh's root", file.display()))?;
    let call = Call::RootAdd { certificate: der.to_vec() };
    session.make_change(call, Subject::of_mesh("root", root.spki), "added", WaitFor::Mesh).await
}

async fn drop_root<C: Controller>(
    session: &mut Session<'_, '_, C>,
    fingerprint: Fingerprint,
) -> Result<Exit, Failure> {
    let call = |force| Call::RootDrop { fingerprint, force };
    // A dry run finds out whether something depends on the root.
    let force = match session.controller.call(call(false), true).await {
        Ok(_) => false,
        Err(failure) if failure.exit != Exit::Conflict => return Err(failure),
        Err(failure) => {
            let Ok(replies) = session.controller.call(call(true), true).await else {
                // Also refused with force.
                return Err(failure);
            };
            let impact = one(replies, kind!(Changed))?.warnings;
            match session.consent("ca rotate drop") {
                Ok(Consent::Given) => {}
                Ok(Consent::Needed) => session.confirm(&impact).await?,
                // Without a terminal the refusal says what depends on the root.
                Err(_) => return Err(failure),
            }
            true
        }
    };
    session
        .make_change(call(force), Subject::of_mesh("root", fingerprint), "removed", WaitFor::Mesh)
        .await
}

async fn renew<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<Exit, Failure> {
    let dry_run = session.options.dry_run;
    let mut answer = Renewed { dry_run, ..Renewed::default() };
    if !dry_run {
        renew_own(session).await?;
    }
    let connected = outdated(session).await?.into_iter().filter(|holder| holder.online);
    let edges = connected.filter(|holder| holder.id.role.namespace().is_some());
    let mut asked: BTreeSet<SpiffeId> = BTreeSet::new();
    for HolderRow { id, .. } in edges {
        if dry_run {
            answer.pending.push(name(&id));
            continue;
        }
        if ask_to_renew(session, &id).await? {
            asked.insert(id);
        }
        let done = count(asked.len(), "edge");
        session.console.progress(&format!("{done} asked to renew"));
        sleep(RENEW_INTERVAL).await;
    }
    let deadline = Instant::now() + session.options.timeout;
    let mut left = outdated(session).await?;
    while left.iter().any(|holder| asked.contains(&holder.id)) && Instant::now() < deadline {
        sleep(POLL_INTERVAL).await;
        left = outdated(session).await?;
    }
    session.console.clear_progress();
    sort_into(&mut answer, &asked, &left);
    let pending = if dry_run { 0 } else { answer.pending.len() };
    session.console.answer(&answer)?;
    if pending > 0 {
        let timeout = short(session.options.timeout);
        let pending = count(pending, "edge");
        let message = format!("after {timeout}: {pending} without a new certificate");
        return Err(Failure::new(Exit::Unhealthy, message).hint(
            "they try again by themselves within the hour; `cfctl ca status` shows how many are left",
        ));
    }
    Ok(Exit::Done)
}

/// Asks an edge to renew. Returns false when it has disconnected.
async fn ask_to_renew<C: Controller>(
    session: &mut Session<'_, '_, C>,
    id: &SpiffeId,
) -> Result<bool, Failure> {
    let Role::Edge { namespace, name } = &id.role else { return Ok(false) };
    let call = Call::CertRenew { namespace: namespace.clone(), edge: name.clone() };
    match session.controller.call(call, false).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.exit == Exit::Unreachable => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// `left` are the holders that still have an old certificate.
fn sort_into(answer: &mut Renewed, asked: &BTreeSet<SpiffeId>, left: &[HolderRow]) {
    let still: BTreeSet<&SpiffeId> = left.iter().map(|holder| &holder.id).collect();
    answer.renewed = asked.iter().filter(|id| !still.contains(id)).map(name).collect();
    answer.pending.extend(asked.iter().filter(|id| still.contains(id)).map(name));
    for holder in left.iter().filter(|holder| !asked.contains(&holder.id)) {
        let list = match &holder.id.role {
            Role::Edge { .. } if holder.online => continue,
            Role::Edge { .. } => &mut answer.offline,
            Role::Admin { .. } => &mut answer.admins,
            Role::Controller { .. } => &mut answer.controllers,
        };
        list.push(name(&holder.id));
    }
}

/// Renews this context's own certificate at any age.
async fn renew_own<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<(), Failure> {
    let Some((path, name)) = session.context.clone() else {
        return Ok(());
    };
    let contexts = Contexts::load(&path)?;
    let (_, used) = contexts.select(Some(&name))?;
    renewal::renew(&mut session.controller, &path, &name, used).await
}

/// The holders whose newest certificate is from a CA that no longer signs.
async fn outdated<C: Controller>(
    session: &mut Session<'_, '_, C>,
) -> Result<Vec<HolderRow>, Failure> {
    let status = session.query(Call::CaStatus, kind!(Ca)).await?;
    let mut found = Vec::new();
    for ca in status.issuers.iter().filter(|ca| !ca.signs || ca.revoked) {
        let depend = ca.certs.edges + ca.certs.controllers + ca.certs.admins;
        if depend > 0 {
            let call = Call::CaHolders { fingerprint: ca.fingerprint };
            found.extend(session.query(call, kind!(Holders)).await?);
        }
    }
    Ok(found)
}

/// `prod/aws-hk` for an edge, otherwise the name alone.
fn name(id: &SpiffeId) -> String {
    match id.role.namespace() {
        Some(namespace) => format!("{namespace}/{}", id.role.name()),
        None => id.role.name().to_string(),
    }
}

//! `cfctl ca …`

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::Context as _;
use cframe_pki::{
    Fingerprint,
    identity::{Label, Role, SpiffeId},
    issue::{CaCertificate, read_certificate},
};
use cframe_protocol::v1::{CaStatus, Call, HolderRow, Reply};
use tokio::time::{Instant, sleep};

use crate::{
    args::{CaVerb, RotateVerb},
    console::count,
    context::Contexts,
    controller::{Controller, kind, one, rows},
    failure::{Exit, Failure},
    moment::short,
    renewal,
    session::{Consent, Reach, Session},
    view::{Authorities, Renewed, Subject},
};

/// Between two edges that are asked to renew: each makes its links anew then.
const PACE: Duration = Duration::from_millis(20);
/// Between two looks at what others do.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: CaVerb,
) -> Result<Exit, Failure> {
    match verb {
        CaVerb::Show => {
            let status = status(session).await?;
            session.console.answer(&Authorities::new(status, false, session.terms.now))?;
            Ok(Exit::Done)
        }
        CaVerb::Status => show_status(session).await,
        CaVerb::Rotate(RotateVerb::Add { file }) => add(session, &file).await,
        CaVerb::Rotate(RotateVerb::Renew) => renew(session).await,
        CaVerb::Rotate(RotateVerb::Drop { fingerprint }) => drop_root(session, fingerprint).await,
    }
}

async fn status<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<CaStatus, Failure> {
    let mut whole: Vec<Reply> = Vec::new();
    for piece in session.ask(Call::CaStatus).await? {
        let rest = match whole.last_mut() {
            Some(before) => before.merge(piece),
            None => Some(piece),
        };
        whole.extend(rest);
    }
    one(whole, kind!(Ca))
}

async fn show_status<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<Exit, Failure> {
    let deadline = Instant::now() + session.terms.timeout;
    let missing = |status: &CaStatus| -> u32 {
        status.roots.iter().map(|root| root.edges - root.have.min(root.edges)).max().unwrap_or(0)
    };
    let mut found = status(session).await?;
    while session.terms.wait && missing(&found) > 0 && Instant::now() < deadline {
        let missing = count(missing(&found) as usize, "edge");
        session.console.progress(&format!("{missing} without the whole trust bundle"));
        sleep(LOOK).await;
        found = status(session).await?;
    }
    session.console.progress_done();
    let left = missing(&found);
    session.console.answer(&Authorities::new(found, true, session.terms.now))?;
    if session.terms.wait && left > 0 {
        let left = count(left as usize, "edge");
        let limit = short(session.terms.timeout);
        return Err(Failure::new(
            Exit::Unhealthy,
            format!("after {limit} {left} are not known to have the whole trust bundle"),
        )
        .hint("those that are offline get it when they come back; wait longer with --timeout"));
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
    session.change(call, Subject::of_mesh("root", root.spki), "added", Reach::Mesh).await
}

async fn drop_root<C: Controller>(
    session: &mut Session<'_, '_, C>,
    fingerprint: Fingerprint,
) -> Result<Exit, Failure> {
    let call = |force| Call::RootDrop { fingerprint, force };
    // Whether somebody depends on it is the controller's to say, which is asked without consequences.
    let force = match session.controller.call(call(false), true).await {
        Ok(_) => false,
        Err(failure) if failure.exit != Exit::Conflict => return Err(failure),
        Err(failure) => {
            let Ok(replies) = session.controller.call(call(true), true).await else {
                // Nor would force have it.
                return Err(failure);
            };
            let impact = one(replies, kind!(Changed))?.warnings;
            match session.consent("ca rotate drop") {
                Ok(Consent::Given) => {}
                Ok(Consent::ToAsk) => session.confirm(&impact).await?,
                // Nobody to ask: the refusal says who depends on it.
                Err(_) => return Err(failure),
            }
            true
        }
    };
    session.change(call(force), Subject::of_mesh("root", fingerprint), "removed", Reach::Mesh).await
}

async fn renew<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<Exit, Failure> {
    let mut answer = Renewed { dry_run: session.terms.dry_run, ..Renewed::default() };
    if !session.terms.dry_run {
        renew_own(session).await?;
    }
    let mut asked: BTreeSet<SpiffeId> = BTreeSet::new();
    for holder in outdated(session).await? {
        let name = name(&holder.id);
        let Role::Edge { namespace, name: edge } = &holder.id.role else {
            continue;
        };
        if !holder.online {
            continue;
        }
        if session.terms.dry_run {
            answer.pending.push(name);
            continue;
        }
        let (namespace, edge): (Label, Label) = (namespace.clone(), edge.clone());
        match session.ask(Call::CertRenew { namespace, edge }).await {
            Ok(_) => {
                asked.insert(holder.id);
            }
            // It has gone meanwhile.
            Err(failure) if failure.exit == Exit::Unreachable => {}
            Err(failure) => return Err(failure),
        }
        let done = asked.len();
        session.console.progress(&format!("{} asked to renew", count(done, "edge")));
        sleep(PACE).await;
    }
    let deadline = Instant::now() + session.terms.timeout;
    let mut left = outdated(session).await?;
    while left.iter().any(|holder| asked.contains(&holder.id)) && Instant::now() < deadline {
        sleep(LOOK).await;
        left = outdated(session).await?;
    }
    session.console.progress_done();
    let still: BTreeSet<&SpiffeId> = left.iter().map(|holder| &holder.id).collect();
    answer.renewed = asked.iter().filter(|id| !still.contains(id)).map(name).collect();
    answer.pending.extend(asked.iter().filter(|id| still.contains(id)).map(name));
    for holder in left.iter().filter(|holder| !asked.contains(&holder.id)) {
        match &holder.id.role {
            Role::Edge { .. } if holder.online => {}
            Role::Edge { .. } => answer.offline.push(name(&holder.id)),
            Role::Admin { .. } => answer.admins.push(name(&holder.id)),
            Role::Controller { .. } => answer.controllers.push(name(&holder.id)),
        }
    }
    let pending = if answer.dry_run { 0 } else { answer.pending.len() };
    session.console.answer(&answer)?;
    if pending > 0 {
        let pending = count(pending, "edge");
        let message =
            format!("{pending} without a new certificate after {}", short(session.terms.timeout));
        return Err(Failure::new(Exit::Unhealthy, message).hint(
            "they try again by themselves within the hour; `cfctl ca status` shows who is left",
        ));
    }
    Ok(Exit::Done)
}

/// This context's own certificate, whatever its age.
async fn renew_own<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<(), Failure> {
    let Some((path, name)) = session.context.clone() else {
        return Ok(());
    };
    let contexts = Contexts::load(&path)?;
    let (_, used) = contexts.select(Some(&name))?;
    renewal::renew(&mut session.controller, &path, &name, used).await
}

/// Those whose newest certificate is by a CA that signs no more.
async fn outdated<C: Controller>(
    session: &mut Session<'_, '_, C>,
) -> Result<Vec<HolderRow>, Failure> {
    let status = status(session).await?;
    let mut found = Vec::new();
    for ca in status.issuers.iter().filter(|ca| !ca.signs || ca.revoked) {
        let depend = ca.certs.edges + ca.certs.controllers + ca.certs.admins;
        if depend > 0 {
            let call = Call::CaHolders { fingerprint: ca.fingerprint };
            found.extend(rows(session.ask(call).await?, kind!(Holders))?);
        }
    }
    Ok(found)
}

/// `prod/aws-hk`, or a name of the mesh.
fn name(id: &SpiffeId) -> String {
    match id.role.namespace() {
        Some(namespace) => format!("{namespace}/{}", id.role.name()),
        None => id.role.name().to_string(),
    }
}

//! `status`: the mesh as a whole.

use std::sync::Arc;

use cframe_pki::identity::Label;
use cframe_protocol::{
    problem::Code,
    v1::{Call, ControllerRow, MeshStatus, ProblemGroup, Reply},
};

use crate::{
    context::Context,
    decide::{
        names::natural,
        problems::{
            self,
            groups::{Details, Findings},
        },
    },
    model::{State, expiry},
    peers,
    sessions::all::SessionFilter,
};

/// The mesh as seen by all controllers that answer.
pub(super) async fn status(context: &Arc<Context>, now: u64) -> MeshStatus {
    let (sessions, others) = tokio::join!(
        peers::all_sessions(context, SessionFilter::BRIEF),
        peers::ask_all(context, &Call::Status)
    );
    let own = own_part(context);
    let (mut controllers, mut reported) = (own.controllers, own.problems);
    let mut findings = Findings::groups();
    for (name, answer) in others {
        match answer {
            Ok(replies) => {
                for reply in replies {
                    if let Reply::Status(part) = reply {
                        controllers.extend(part.controllers);
                        reported.extend(part.problems);
                    }
                }
                let silent = sessions.unanswered().iter().find(|(silent, _)| *silent == name);
                if let Some((_, reason)) = silent {
                    unanswered(&mut findings, &name, reason);
                }
            }
            Err(failure) => unanswered(&mut findings, &name, &failure.to_string()),
        }
    }
    controllers.sort_by(|one, other| natural(&one.name, &other.name));
    context.replica.read(|state| {
        not_running(&mut findings, state, &controllers);
        expiring(&mut findings, state, now);
        let namespaces = problems::namespaces(state, &sessions, now, &mut findings);
        MeshStatus {
            mesh: state.mesh.record.name.clone(),
            controllers,
            epoch: state.mesh.record.epoch,
            mesh_revision: state.mesh.record.revision,
            namespaces,
            problems: problems::merge(findings, reported),
        }
    })
}

/// This controller's part, which another controller merges with the others'.
pub(super) fn own_part(context: &Context) -> MeshStatus {
    context.replica.read(|state| MeshStatus {
        mesh: state.mesh.record.name.clone(),
        controllers: controller(context, state).into_iter().collect(),
        epoch: state.mesh.record.epoch,
        mesh_revision: state.mesh.record.revision,
        namespaces: Vec::new(),
        problems: own_problems(context),
    })
}

fn unanswered(findings: &mut Findings, name: &Label, reason: &str) {
    findings.add_of_mesh(
        Code::ControllerDown,
        name.as_str(),
        Details {
            text: format!("controller {name} does not answer, its edges are not known: {reason}"),
            fix: Some(
                "see the log of cframe-controller on its host, and let UDP 58422 in".to_owned(),
            ),
            since: None,
        },
    );
}

fn not_running(findings: &mut Findings, state: &State, running: &[ControllerRow]) {
    let names = state.controllers.keys().filter(|name| {
        !state.alive.contains_key(*name) && running.iter().all(|row| row.name != **name)
    });
    for name in names {
        findings.add_of_mesh(
            Code::ControllerDown,
            name.as_str(),
            Details {
                text: format!("controller {name} does not run"),
                fix: Some(format!(
                    "start it on its host, or remove it: cfctl controller del {name}"
                )),
                since: None,
            },
        );
    }
}

fn controller(context: &Context, state: &State) -> Option<ControllerRow> {
    let name = context.name();
    let registered = state.controllers.get(&name);
    let address = registered.and_then(|own| own.record.addresses.first());
    Some(ControllerRow {
        address: address.or_else(|| state.mesh.record.controllers.first())?.clone(),
        name,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_secs: context.started.elapsed().as_secs(),
        store: store_status(context),
    })
}

fn store_status(context: &Context) -> String {
    let store = context.replica.store();
    let kind = store.kind();
    match (context.replica.store_problem(), store.health()) {
        (Some(problem), _) => format!("{kind}: {problem}"),
        (None, Some(health)) => format!("{kind}: ok ({health})"),
        (None, None) => format!("{kind}: ok"),
    }
}

fn own_problems(context: &Context) -> Vec<ProblemGroup> {
    let name = context.name();
    let mut findings = Findings::groups();
    if let Some(problem) = context.replica.store_problem() {
        findings.add_of_mesh(
            Code::StoreProblem,
            name.as_str(),
            Details { text: format!("controller {name}: {problem}"), fix: None, since: None },
        );
    }
    findings.into_groups()
}

/// The same for all controllers.
fn expiring(findings: &mut Findings, state: &State, now: u64) {
    for expiry in expiry::all(state, now).iter().filter(|expiry| expiry.is_soon(now)) {
        let (text, fix) = (expiry.sentence(now), expiry.fix(now));
        findings.add_of_mesh(
            Code::Expiring,
            &expiry.name,
            Details { text, fix: Some(fix), since: None },
        );
    }
}

//! What is looked at: lists, and single rows.

use std::sync::Arc;

use cframe_pki::{Serial, identity::Label};
use cframe_protocol::v1::{CallError, Reply};

use super::{
    admin, cert, edge, namespace, route,
    sightings::{Of, Sightings},
    token,
};
use crate::{
    check,
    model::{Namespace, State},
    server::Context,
};

pub(super) fn namespaces(state: &State) -> Reply {
    Reply::Namespaces(state.namespaces.iter().map(namespace::row).collect())
}

pub(super) fn namespace(state: &State, name: &Label) -> Result<Reply, CallError> {
    let space = check::namespace(state, name)?;
    Ok(Reply::Namespaces(vec![namespace::row((name, space))]))
}

pub(super) async fn edges(
    context: &Arc<Context>,
    of: Option<&Label>,
    now: u64,
) -> Result<Reply, CallError> {
    // Nobody is asked about a namespace that is not there.
    context.mesh.read(|state| spaces(state, of).map(drop))?;
    let wanted = Of { namespace: of, ..Of::default() };
    let sightings = Sightings::gather(context, wanted).await;
    context.mesh.read(|state| {
        let rows = spaces(state, of)?.flat_map(|(name, space)| {
            space.edges.iter().map(|found| edge::row(state, &sightings, name, found, now))
        });
        Ok(Reply::Edges(rows.collect()))
    })
}

pub(super) async fn edge(
    context: &Arc<Context>,
    namespace: &Label,
    name: &Label,
    now: u64,
) -> Result<Reply, CallError> {
    let find =
        |state: &State| edge::find(check::namespace(state, namespace)?, namespace, name).cloned();
    context.mesh.read(find)?;
    let wanted = Of { namespace: Some(namespace), edge: Some(name), brief: false };
    let sightings = Sightings::gather(context, wanted).await;
    context.mesh.read(|state| {
        let row = edge::row(state, &sightings, namespace, (name, &find(state)?), now);
        Ok(Reply::Edges(vec![row]))
    })
}

pub(super) fn routes(state: &State, of: Option<&Label>) -> Result<Reply, CallError> {
    let rows = spaces(state, of)?
        .flat_map(|(name, space)| space.routes.iter().map(|found| route::row(name, found)));
    Ok(Reply::Routes(rows.collect()))
}

pub(super) fn route(state: &State, namespace: &Label, name: &Label) -> Result<Reply, CallError> {
    let found = route::find(check::namespace(state, namespace)?, namespace, name)?;
    Ok(Reply::Routes(vec![route::row(namespace, (name, found))]))
}

pub(super) fn tokens(state: &State, of: Option<&Label>, now: u64) -> Result<Reply, CallError> {
    if let Some(name) = of {
        check::namespace(state, name)?;
    }
    let rows = state.tokens.iter().filter_map(|found| token::row(found, now));
    Ok(Reply::Tokens(rows.filter(|row| of.is_none_or(|name| row.namespace == *name)).collect()))
}

/// Those of a namespace that is gone can still be looked at.
pub(super) fn certs(state: &State, of: Option<&Label>, now: u64) -> Reply {
    let certs = state.certs.iter().filter(|(_, cert)| cert::is_of(&cert.record, of));
    Reply::Certs(certs.map(|(serial, cert)| cert::row(state, *serial, &cert.record, now)).collect())
}

pub(super) fn cert(state: &State, serial: Serial, now: u64) -> Result<Reply, CallError> {
    let cert = cert::find(state, serial)?;
    Ok(Reply::Certs(vec![cert::row(state, serial, &cert.record, now)]))
}

pub(super) fn admins(state: &State, now: u64) -> Reply {
    Reply::Admins(state.admins.iter().map(|found| admin::row(state, found, now)).collect())
}

fn spaces<'a>(
    state: &'a State,
    of: Option<&'a Label>,
) -> Result<impl Iterator<Item = (&'a Label, &'a Namespace)>, CallError> {
    if let Some(name) = of {
        check::namespace(state, name)?;
    }
    Ok(state.namespaces.iter().filter(move |(name, _)| of.is_none_or(|of| of == *name)))
}

//! What is looked at: lists, and single rows.

use cframe_pki::{Serial, identity::Label};
use cframe_protocol::v1::{CallError, Reply};

use super::{admin, cert, edge, namespace, route, token};
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

pub(super) fn edges(
    context: &Context,
    state: &State,
    of: Option<&Label>,
    now: u64,
) -> Result<Reply, CallError> {
    let sessions = &context.mesh.sessions;
    let rows = spaces(state, of)?.flat_map(|(name, space)| {
        space.edges.iter().map(|found| edge::row(state, sessions, name, found, now))
    });
    Ok(Reply::Edges(rows.collect()))
}

pub(super) fn edge(
    context: &Context,
    state: &State,
    namespace: &Label,
    name: &Label,
    now: u64,
) -> Result<Reply, CallError> {
    let found = edge::find(check::namespace(state, namespace)?, namespace, name)?;
    let row = edge::row(state, &context.mesh.sessions, namespace, (name, found), now);
    Ok(Reply::Edges(vec![row]))
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

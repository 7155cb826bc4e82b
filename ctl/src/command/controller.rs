//! `cfctl controller …`

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, RegistrationRow};

use crate::{
    args::ControllerVerb,
    context::Contexts,
    controller::{Controller, first, kind, rows},
    failure::{Exit, Failure},
    session::{Consent, Reach, Session},
    view::{self, Subject},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: ControllerVerb,
) -> Result<Exit, Failure> {
    match verb {
        ControllerVerb::List => {
            let rows = rows(session.ask(Call::ControllerList).await?, kind!(Controllers))?;
            learn(session, &rows)?;
            let controllers: Vec<_> = rows.into_iter().map(view::Controller::from).collect();
            session.list(&controllers)
        }
        ControllerVerb::Show { name } => {
            let call = Call::ControllerShow { name };
            let row = first(rows(session.ask(call).await?, kind!(Controllers))?)?;
            session.one(&view::Controller::from(row))
        }
        ControllerVerb::Del { name, revoke_issuer } => del(session, name, revoke_issuer).await,
    }
}

async fn del<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
    revoke_issuer: bool,
) -> Result<Exit, Failure> {
    if session.consent("controller del")? == Consent::ToAsk {
        let mut impact = vec![format!(
            "controller {name} is removed, and its certificates revoked for good; edges forget its addresses"
        )];
        if revoke_issuer {
            impact.push(
                "no certificate that its issuing CAs have signed works any more: edges and admins that have \
                 one lose all their connections at once"
                    .into(),
            );
        }
        session.confirm(&impact).await?;
    }
    let subject = Subject::of_mesh("controller", &name);
    let call = Call::ControllerDel { name, revoke_issuer };
    session.change(call, subject, "removed", Reach::Mesh).await
}

/// Has the context in use know all the controllers that there are, besides those that it knows: from where the
/// admin is they may have other addresses.
///
/// # Errors
/// When the file cannot be read or written.
pub(super) fn learn<C: Controller>(
    session: &Session<'_, '_, C>,
    rows: &[RegistrationRow],
) -> Result<(), Failure> {
    /// As many as an edge holds.
    const MOST: usize = 64;
    let Some((path, name)) = &session.context else { return Ok(()) };
    let mut contexts = Contexts::load(path)?;
    let Some(context) = contexts.contexts.get_mut(name) else { return Ok(()) };
    let known = context.controllers.len();
    for address in rows.iter().flat_map(|row| &row.addresses) {
        if context.controllers.len() < MOST && !context.controllers.contains(address) {
            context.controllers.push(address.clone());
        }
    }
    if context.controllers.len() > known {
        contexts.save(path)?;
    }
    Ok(())
}

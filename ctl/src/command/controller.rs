use cframe_console::exit::Exit;
use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, RegistrationRow};

use crate::{
    args::ControllerVerb,
    context::Contexts,
    controller::{Controller, first, kind},
    failure::Failure,
    session::{Consent, Session, WaitFor},
    view::{self, Subject},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: ControllerVerb,
) -> Result<Exit, Failure> {
    match verb {
        ControllerVerb::List => {
            let rows = session.query(Call::ControllerList, kind!(Controllers)).await?;
            save_addresses(session, &rows)?;
            session.list::<view::Controller>(rows)
        }
        ControllerVerb::Show { name } => {
            let call = Call::ControllerShow { name };
            let row = first(session.query(call, kind!(Controllers)).await?)?;
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
    let consent = session.consent("controller del")?;
    let subject = Subject::of_mesh("controller", &name);
    let call = Call::ControllerDel { name: name.clone(), revoke_issuer };
    if consent == Consent::Needed {
        let mut impact = vec![format!(
            "controller {name} is removed, and its certificates revoked for good; edges forget its addresses"
        )];
        if revoke_issuer {
            impact.push("no certificate that its issuing CAs have signed works any more".into());
        }
        impact.extend(session.warnings_before(call.clone()).await?);
        session.confirm(&impact).await?;
    }
    session.make_change(call, subject, "removed", WaitFor::Mesh).await
}

/// Adds the controllers' addresses to the context in use. Its own stay: from where the admin is, they may
/// differ.
pub(super) fn save_addresses<C: Controller>(
    session: &Session<'_, '_, C>,
    rows: &[RegistrationRow],
) -> Result<(), Failure> {
    /// As many as an edge stores.
    const MAX_ADDRESSES: usize = 64;
    let Some((path, name)) = &session.context else { return Ok(()) };
    let mut contexts = Contexts::load(path)?;
    let Some(context) = contexts.contexts.get_mut(name) else { return Ok(()) };
    let known = context.controllers.len();
    for address in rows.iter().flat_map(|row| &row.addresses) {
        if context.controllers.len() < MAX_ADDRESSES && !context.controllers.contains(address) {
            context.controllers.push(address.clone());
        }
    }
    if context.controllers.len() > known {
        contexts.save(path)?;
    }
    Ok(())
}

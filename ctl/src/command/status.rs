//! `cfctl status` and `cfctl version`

use cframe_protocol::v1::{Call, Reply};

use crate::{
    controller::{Controller, kind, one, rows},
    failure::{Exit, Failure},
    session::Session,
    view::{Status, Versions},
};

pub(super) async fn status<C: Controller>(
    session: &mut Session<'_, '_, C>,
) -> Result<Exit, Failure> {
    let status = Status::from(one(session.ask(Call::Status).await?, kind!(Status))?);
    session.console.answer(&status)?;
    if session.context.is_some() {
        // A context that cannot be written, or an older controller, is no reason to call the mesh unwell.
        if let Err(failure) = learn(session).await {
            session
                .console
                .warn(&format!("the context does not learn of all controllers: {failure}"));
        }
    }
    Ok(if status.healthy { Exit::Done } else { Exit::Unhealthy })
}

async fn learn<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<(), Failure> {
    let rows = rows(session.ask(Call::ControllerList).await?, kind!(Controllers))?;
    super::controller::learn(session, &rows)
}

pub(super) async fn version<C: Controller>(
    session: &mut Session<'_, '_, C>,
) -> Result<Exit, Failure> {
    let (software, protocol) = one(session.ask(Call::Version).await?, |reply| {
        if let Reply::Version { software, protocol } = reply {
            Some((software, protocol))
        } else {
            None
        }
    })?;
    session.console.answer(&Versions {
        client: env!("CARGO_PKG_VERSION"),
        controller: Some(software),
        protocol: Some(protocol),
    })?;
    Ok(Exit::Done)
}

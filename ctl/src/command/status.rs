use cframe_console::exit::Exit;
use cframe_protocol::v1::{Call, Reply};

use crate::{
    controller::{Controller, kind},
    failure::Failure,
    session::Session,
    view::{Status, Versions},
};

pub(super) async fn status<C: Controller>(
    session: &mut Session<'_, '_, C>,
) -> Result<Exit, Failure> {
    let status = Status::from(session.query(Call::Status, kind!(Status)).await?);
    session.console.answer(&status)?;
    if session.context.is_some() {
        // A context that can't be written is no problem of the mesh.
        if let Err(failure) = save_addresses(session).await {
            let message = format!("the controllers' addresses were not saved: {failure}");
            session.console.warn(&message);
        }
    }
    Ok(if status.healthy { Exit::Done } else { Exit::Unhealthy })
}

async fn save_addresses<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<(), Failure> {
    let rows = session.query(Call::ControllerList, kind!(Controllers)).await?;
    super::controller::save_addresses(session, &rows)
}

pub(super) async fn version<C: Controller>(
    session: &mut Session<'_, '_, C>,
) -> Result<Exit, Failure> {
    let version = session.query(Call::Version, |reply| {
        if let Reply::Version { software, protocol } = reply {
            Some((software, protocol))
        } else {
            None
        }
    });
    let (software, protocol) = version.await?;
    session.console.answer(&Versions {
        client: env!("CARGO_PKG_VERSION"),
        controller: Some(software),
        protocol: Some(protocol),
    })?;
    Ok(Exit::Done)
}

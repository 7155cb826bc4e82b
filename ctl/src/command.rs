//! The commands, one module for each noun.

mod admin;
mod audit;
mod ca;
mod cert;
pub(crate) mod context;
mod controller;
mod edge;
mod namespace;
mod route;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod token;
mod trust;

use crate::{args::MeshCommand, controller::Controller, failure::Failure, session::Session};
use cframe_console::exit::Exit;

/// Runs a command that calls a controller.
pub async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    command: MeshCommand,
) -> Result<Exit, Failure> {
    match command {
        MeshCommand::Namespace(verb) => namespace::run(session, verb).await,
        MeshCommand::Edge(verb) => edge::run(session, verb).await,
        MeshCommand::Route(verb) => route::run(session, verb).await,
        MeshCommand::Token(verb) => token::run(session, verb).await,
        MeshCommand::Cert(verb) => cert::run(session, verb).await,
        MeshCommand::Admin(verb) => admin::run(session, verb).await,
        MeshCommand::Controller(verb) => controller::run(session, verb).await,
        MeshCommand::Ca(verb) => ca::run(session, verb).await,
        MeshCommand::Store(verb) => store::run(session, verb).await,
        MeshCommand::Trust(verb) => trust::run(session, verb).await,
        MeshCommand::Audit(args) => audit::run(session, args).await,
        MeshCommand::Status => status::status(session).await,
        MeshCommand::Version { .. } => status::version(session).await,
    }
}

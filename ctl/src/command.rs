//! The commands that talk to a controller, a module per noun; and those about contexts, which don't.

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
#[cfg(test)]
mod tests;
mod token;
mod trust;

use crate::{
    args::MeshCommand,
    controller::Controller,
    failure::{Exit, Failure},
    session::Session,
};

/// Runs a command that talks to a controller.
///
/// # Errors
/// Why it failed, with the exit code.
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
        MeshCommand::Trust(verb) => trust::run(session, verb).await,
        MeshCommand::Audit(args) => audit::run(session, args).await,
        MeshCommand::Status => status::status(session).await,
        MeshCommand::Version { .. } => status::version(session).await,
    }
}

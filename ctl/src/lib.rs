//! cfctl, the command that manages a cframe mesh.
//!
//! - [`args`]: the grammar of the command line.
//! - [`command`]: the commands, which use a [`controller::Controller`] and a [`console::Console`].
//! - [`context`]: the file with meshes, their controllers and the admin's certificates.
//! - [`impact`]: sentences about what a change would break.
//! - [`view`]: tables, and the JSON that scripts rely on.
//! - [`remote`]: calls to controllers over QUIC.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod args;
pub mod command;
pub mod console;
pub mod context;
pub mod controller;
pub mod enrollment;
pub mod failure;
pub mod impact;
pub mod pem;
pub mod remote;
pub mod session;
pub mod table;
pub mod timestamp;
pub mod value;
pub mod view;

mod renewal;

use std::path::PathBuf;

use args::{Cli, ColorChoice, Command, Globals, MeshCommand};
use cframe_console::{exit::Exit, output};
use cframe_pki::identity::PeerIdentity;
use console::{Console, Style};
use context::{Context, Contexts};
use failure::Failure;
use remote::Remote;
use session::{Options, Session};
use timestamp::Timestamp;

/// Runs a command line, and prints the error when it fails.
pub fn run(cli: Cli, console: &mut Console<'_>) -> Exit {
    match dispatch(cli, console) {
        Ok(exit) => exit,
        Err(failure) => {
            console.fail(&failure);
            failure.exit
        }
    }
}

fn dispatch(cli: Cli, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let Cli { globals, command } = cli;
    let now = cframe_pki::unix_now();
    match command {
        Command::Completion { shell } => {
            console.print(&output::completion(cframe_console::args::command::<Cli>(), shell))?;
            Ok(Exit::Done)
        }
        Command::Context(verb) => command::context::run(console, &file(&globals)?, verb, now),
        Command::Mesh(MeshCommand::Version { client }) if client || !file(&globals)?.exists() => {
            versions(console)
        }
        Command::Mesh(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| anyhow::Error::from(error).context("starting the runtime"))?;
            runtime.block_on(with_controller(&globals, command, console, now))
        }
    }
}

async fn with_controller(
    globals: &Globals,
    command: MeshCommand,
    console: &mut Console<'_>,
    now: u64,
) -> Result<Exit, Failure> {
    let path = file(globals)?;
    let contexts = Contexts::load(&path)?;
    let (name, context) = contexts.select(globals.context.as_deref())?;
    let identity = unexpired(name, context, now)?;
    let mut session = Session {
        console,
        controller: Remote::new(name, context, globals.timeout)?,
        options: Options {
            namespace: globals.namespace.clone().or_else(|| context.namespace.clone()),
            dry_run: globals.dry_run,
            yes: globals.yes,
            wait: globals.wait,
            timeout: globals.timeout,
            now,
        },
        context: Some((path.clone(), name.to_owned())),
    };
    let outcome = command::run(&mut session, command).await;
    if outcome.is_ok() && !globals.dry_run && renewal::is_due(&identity, now) {
        let Session { console, controller, .. } = &mut session;
        if let Err(failure) = renewal::renew(controller, &path, name, context).await {
            warn_of_expiry(console, name, &identity, &failure, now);
        }
    }
    if outcome.is_ok() && !globals.dry_run {
        // The next command tries again.
        if let Err(failure) = renewal::update_trust(&mut session.controller, &path, name).await {
            tracing::debug!(context = name, %failure, "the roots were not updated");
        }
    }
    session.controller.close().await;
    outcome
}

/// With an expired certificate, the handshake would fail without a clear reason.
fn unexpired(name: &str, context: &Context, now: u64) -> Result<PeerIdentity, Failure> {
    let identity = context.identity().map_err(|error| error.context(format!("context {name}")))?;
    if identity.not_after >= now {
        return Ok(identity);
    }
    let expired = Timestamp(identity.not_after);
    let message = format!("the certificate of context {name} expired on {expired}");
    Err(Failure::new(Exit::NotAllowed, message).hint(how_to_replace(&identity)))
}

/// Warns that a certificate was not renewed, and in its last days how to get a new one.
fn warn_of_expiry(
    console: &mut Console<'_>,
    name: &str,
    identity: &PeerIdentity,
    failure: &Failure,
    now: u64,
) {
    const URGENT: u64 = 7 * 86_400;
    let left = Timestamp(identity.not_after).left(now);
    let mut text = format!(
        "the certificate of context {name}, valid for another {left}, was not renewed: {failure}"
    );
    if identity.not_after.saturating_sub(now) < URGENT {
        text = format!("{text}; {}", how_to_replace(identity));
    }
    console.warn(&text);
}

fn how_to_replace(identity: &PeerIdentity) -> String {
    let admin = identity.id.role.name();
    format!(
        "run `cframe-controller admin --name {admin}` on the controller's host, or have another admin run \
         `cfctl admin del {admin}` and `cfctl admin add {admin} --out FILE`"
    )
}

fn file(globals: &Globals) -> Result<PathBuf, Failure> {
    globals.config.clone().map_or_else(Contexts::default_path, Ok)
}

fn versions(console: &mut Console<'_>) -> Result<Exit, Failure> {
    let client = env!("CARGO_PKG_VERSION");
    console.answer(&view::Versions { client, controller: None, protocol: None })?;
    Ok(Exit::Done)
}

pub fn style(globals: &Globals, terminals: Terminals, no_color: bool) -> Style {
    let color = |terminal: bool| match globals.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => terminal && !no_color,
    };
    Style {
        format: globals.output,
        color_out: color(terminals.output),
        color_err: color(terminals.error),
        quiet: globals.quiet,
        interactive: terminals.input && terminals.error,
        progress: terminals.error,
    }
}

/// Which of the standard streams are terminals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminals {
    pub input: bool,
    pub output: bool,
    pub error: bool,
}

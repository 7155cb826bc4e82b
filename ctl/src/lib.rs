//! cfctl, the command that manages a cframe mesh.
//!
//! - [`args`]: the grammar of the command line.
//! - [`command`]: what the commands do, through a [`controller::Controller`] and a [`console::Console`].
//! - [`context`]: the file that says which mesh to manage and as whom.
//! - [`impact`]: what a change would break.
//! - [`view`]: what is printed, and the JSON that scripts may rely on.
//! - [`remote`]: the controller over QUIC.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod args;
pub mod command;
pub mod console;
pub mod context;
pub mod controller;
pub mod enrollment;
pub mod failure;
pub mod impact;
pub mod moment;
pub mod pem;
pub mod remote;
pub mod session;
pub mod table;
pub mod value;
pub mod view;

mod renewal;

use std::path::PathBuf;

use args::{Cli, ColorChoice, Command, CompletionShell, Globals, MeshCommand};
use cframe_pki::identity::PeerIdentity;
use console::{Console, Manner};
use context::{Context, Contexts};
use failure::{Exit, Failure};
use moment::Moment;
use remote::Remote;
use session::{Session, Terms};

/// Runs a command line, and prints why it failed if it does.
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
        Command::Completion { shell } => completion(console, shell),
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
        terms: Terms {
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
    if outcome.is_ok() && !globals.dry_run && renewal::due(&identity, now) {
        let Session { console, controller, .. } = &mut session;
        if let Err(failure) = renewal::renew(controller, &path, name, context).await {
            warn_of_expiry(console, name, &identity, &failure, now);
        }
    }
    if outcome.is_ok() && !globals.dry_run {
        // The next command tries again.
        if let Err(failure) = renewal::follow(&mut session.controller, &path, name).await {
            tracing::debug!(context = name, %failure, "the roots were not brought up to date");
        }
    }
    session.controller.close().await;
    outcome
}

/// An expired certificate would only show as a refused handshake.
fn unexpired(name: &str, context: &Context, now: u64) -> Result<PeerIdentity, Failure> {
    let identity = context.identity().map_err(|error| error.context(format!("context {name}")))?;
    if identity.not_after >= now {
        return Ok(identity);
    }
    let expired = Moment(identity.not_after);
    let message = format!("the certificate of context {name} has expired on {expired}");
    Err(Failure::new(Exit::NotAllowed, message).hint(remedy(&identity)))
}

/// Says that a certificate was not renewed, and when that gets urgent, what else there is.
fn warn_of_expiry(
    console: &mut Console<'_>,
    name: &str,
    identity: &PeerIdentity,
    failure: &Failure,
    now: u64,
) {
    const SOON: u64 = 7 * 86_400;
    let left = Moment(identity.not_after).left(now);
    let mut text = format!(
        "the certificate of context {name}, good for {left} more, was not renewed: {failure}"
    );
    if identity.not_after.saturating_sub(now) < SOON {
        text = format!("{text}; {}", remedy(identity));
    }
    console.warn(&text);
}

fn remedy(identity: &PeerIdentity) -> String {
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

fn completion(console: &mut Console<'_>, shell: CompletionShell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    let shell = clap_complete::Shell::from(shell);
    clap_complete::generate(shell, &mut args::command(), "cfctl", &mut script);
    console.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// How to print and ask, from the flags, `NO_COLOR` and what the standard streams are.
pub fn manner(globals: &Globals, terminals: Terminals, no_color: bool) -> Manner {
    let color = |terminal: bool| match globals.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => terminal && !no_color,
    };
    Manner {
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
    /// Standard input.
    pub input: bool,
    /// Standard output.
    pub output: bool,
    /// Standard error.
    pub error: bool,
}

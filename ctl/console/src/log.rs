//! The log, on standard error.

use std::io;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, Registry, fmt, prelude::*, reload};

use crate::output::color_on_stderr;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text, for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Changes what is logged while the program runs.
pub struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// # Errors
    /// When logging has ended.
    pub fn set(&self, filter: EnvFilter) -> anyhow::Result<()> {
        self.0.reload(filter).context("logging")
    }
}

/// Starts logging. With `target`, lines of text name the module that they come from.
///
/// # Errors
/// When this process logs already.
pub fn start(filter: EnvFilter, format: LogFormat, target: bool) -> anyhow::Result<Filter> {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_target(target).with_ansi(color_on_stderr()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().context("logging")?;
    Ok(Filter(handle))
}

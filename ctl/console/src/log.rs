//! The log, on standard error.

use std::io;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, ParseError, Targets},
    fmt,
    prelude::*,
    reload,
};

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

/// Reads a filter: a level, or `MODULE=LEVEL`, or several of these separated by commas. Modules that it does not
/// cover log errors.
///
/// # Errors
/// For a level or a module that cannot be one.
pub fn filter(text: &str) -> Result<Targets, ParseError> {
    let filter: Targets = text.parse()?;
    Ok(match filter.default_level() {
        Some(_) => filter,
        None => filter.with_default(LevelFilter::ERROR),
    })
}

/// Changes what is logged while the program runs.
pub struct Filter(reload::Handle<Targets, Registry>);

impl Filter {
    /// # Errors
    /// When logging has ended.
    pub fn set(&self, filter: Targets) -> anyhow::Result<()> {
        self.0.reload(filter).context("logging")
    }
}

/// Starts logging. With `target`, lines of text name the module that they come from.
///
/// # Errors
/// When this process logs already.
pub fn start(filter: Targets, format: LogFormat, target: bool) -> anyhow::Result<Filter> {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_target(target).with_ansi(color_on_stderr()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().context("logging")?;
    Ok(Filter(handle))
}

//! The log, on standard error.

use std::io;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
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
/// cover log nothing.
pub fn filter(text: &str) -> anyhow::Result<Targets> {
    let mut filter = Targets::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        filter = match part.split_once('=') {
            None => match part.parse::<LevelFilter>() {
                Ok(level) => filter.with_default(level),
                Err(_) => bail!(
                    "{part:?} in the log filter is neither a level, such as info, nor MODULE=LEVEL"
                ),
            },
            Some((module, name)) => {
                let is_module = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
                ensure!(
                    !module.is_empty() && module.chars().all(is_module),
                    "{module:?} in the log filter is not a module"
                );
                filter.with_target(module, level(name)?)
            }
        };
    }
    Ok(filter)
}

fn level(name: &str) -> anyhow::Result<LevelFilter> {
    let level = Some(name).filter(|name| !name.is_empty()).and_then(|name| name.parse().ok());
    level.with_context(|| {
        format!(
            "{name:?} in the log filter is not a level: use off, error, warn, info, debug or trace"
        )
    })
}

/// Changes what is logged while the program runs.
pub struct Filter(reload::Handle<Targets, Registry>);

impl Filter {
    pub fn set(&self, filter: Targets) -> anyhow::Result<()> {
        self.0.reload(filter).context("logging")
    }
}

/// Starts logging. With `target`, lines of text name the module that they come from.
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_is_a_level_and_levels_of_modules() {
        let logs = |text: &str, module: &str| {
            let filter = filter(text).unwrap();
            [Level::ERROR, Level::INFO, Level::DEBUG]
                .map(|level| filter.would_enable(module, &level))
        };
        assert_eq!(logs("info", "x"), [true, true, false]);
        assert_eq!(logs("info, ,x=debug,", "x"), [true, true, true]);
        assert_eq!(logs("info, x=debug", "y"), [true, true, false]);
        assert_eq!(logs("x=info", "y"), [false, false, false]);
        assert_eq!(logs("", "x"), [false, false, false]);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in ["loud", "x=", "x=loud", "=info", "x[span]=debug", "x y=info"] {
            assert!(filter(text).is_err(), "{text}");
        }
    }
}

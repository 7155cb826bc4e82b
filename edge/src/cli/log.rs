//! Logging, on standard error.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tracing_subscriber::{EnvFilter, Registry, fmt, prelude::*, reload};

use crate::config::{Config, LogFormat};

/// Changes the filter at run time.
pub(super) struct Filter(reload::Handle<EnvFilter, Registry>);

pub(super) fn start(config: &Config) -> Result<Filter> {
    let (filter, handle) = reload::Layer::new(parse(&config.log)?);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colour);
    let layer = match config.log_format {
        LogFormat::Text => text.boxed(),
        LogFormat::Json => fmt::layer().with_writer(std::io::stderr).json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init().context("logging")?;
    Ok(Filter(handle))
}

impl Filter {
    pub(super) fn set(&self, filter: &str) -> Result<()> {
        self.0.reload(parse(filter)?).context("logging")
    }
}

/// A level alone is for this program: dependencies then log only warnings or errors.
fn parse(filter: &str) -> Result<EnvFilter> {
    let bare = !filter.contains(['=', ',']);
    let whole = match bare && !["debug", "trace"].contains(&filter) {
        true => format!(
            "{filter},quinn=warn,quinn_proto=warn,quinn_udp=error,rustls=warn,netlink_proto=warn"
        ),
        false => filter.to_owned(),
    };
    EnvFilter::try_new(&whole).with_context(|| {
        format!(
            "log is {filter:?}: use a level, such as info, or a filter, such as cframe_edge=debug"
        )
    })
}

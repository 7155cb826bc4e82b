//! Logging, on standard error.

use anyhow::{Context as _, Result};
use cframe_console::log;
use tracing_subscriber::filter::Targets;

use crate::config::Config;

/// Changes the filter at run time.
pub(super) struct Filter(log::Filter);

pub(super) fn start(config: &Config) -> Result<Filter> {
    Ok(Filter(log::start(parse(&config.log)?, config.log_format, false)?))
}

impl Filter {
    pub(super) fn set(&self, filter: &str) -> Result<()> {
        self.0.set(parse(filter)?)
    }
}

/// A level alone is for this program: dependencies then log only warnings or errors.
fn parse(filter: &str) -> Result<Targets> {
    let bare = !filter.contains(['=', ',']);
    let whole = match bare && !["debug", "trace"].contains(&filter) {
        true => format!(
            "{filter},quinn=warn,quinn_proto=warn,quinn_udp=error,rustls=warn,netlink_proto=warn"
        ),
        false => filter.to_owned(),
    };
    log::filter(&whole).with_context(|| {
        format!(
            "log is {filter:?}: use a level, such as info, or a filter, such as cframe_edge=debug"
        )
    })
}

//! `status` and `doctor`.

use anyhow::Result;
use cframe_console::{exit::Exit, output::print};

use super::{Output, exit::Coded, runtime};
use crate::{config::CommonFlags, doctor::offline_report, local, status};

pub(super) fn status(common: &CommonFlags, output: Output) -> Result<()> {
    let (_, paths, _) = common.resolve()?;
    let found = runtime()?.block_on(local::status(&paths.socket))?;
    match output {
        Output::Table => print(&status::render(&found))?,
        Output::Json => print(&(serde_json::to_string_pretty(&found)? + "\n"))?,
    }
    Ok(())
}

pub(super) fn doctor(common: &CommonFlags, output: Output) -> Result<()> {
    let (instance, paths, _) = common.resolve()?;
    let report = match runtime()?.block_on(local::doctor(&paths.socket)) {
        Ok(report) => report,
        Err(error) => offline_report(&instance, &paths, &error),
    };
    match output {
        Output::Table => print(&report.render())?,
        Output::Json => print(&(serde_json::to_string_pretty(&report)? + "\n"))?,
    }
    match report.ok {
        true => Ok(()),
        false => Err(Coded::error(Exit::Unhealthy, "not healthy")),
    }
}

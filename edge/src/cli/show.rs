//! `status` and `doctor`.

use anyhow::Result;
use cframe_console::{exit::Exit, output::print};

use super::{Output, exit::Coded, runtime};
use crate::{
    config::CommonFlags,
    doctor::{findings, gather},
    local, status,
};

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
    let facts = runtime()?.block_on(gather(&instance, &paths));
    let findings = findings(&facts);
    match output {
        Output::Table => {
            print(&findings.iter().map(|finding| format!("{finding}\n")).collect::<String>())?;
        }
        Output::Json => print(&(serde_json::to_string_pretty(&findings)? + "\n"))?,
    }
    match findings.iter().filter(|finding| !finding.ok).count() {
        0 => Ok(()),
        wrong => Err(Coded::error(Exit::Unhealthy, format!("{wrong} to fix"))),
    }
}

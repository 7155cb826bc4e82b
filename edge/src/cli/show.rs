//! `status` and `doctor`.

use std::io::ErrorKind;

use anyhow::Result;
use cframe_console::{exit::Exit, output::print};

use super::{Output, exit::Coded, runtime};
use crate::{
    config::{CommonFlags, ConfigError},
    doctor::offline_report,
    instance::Instance,
    local::{self, AskError},
    status,
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
    let report = match common.resolve() {
        Ok((_, paths, _)) => match runtime()?.block_on(local::doctor(&paths.socket)) {
            Ok(report) => report,
            Err(error) => offline_report(&paths, &error),
        },
        Err(ConfigError::Read(path, error)) if error.kind() == ErrorKind::PermissionDenied => {
            let paths = Instance::default().paths(None);
            offline_report(&paths, &AskError::NotAllowed(path))
        }
        Err(error) => return Err(error.into()),
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

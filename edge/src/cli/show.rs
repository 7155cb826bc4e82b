//! `status` and `doctor`.

use anyhow::Result;

use super::{Output, exit::Coded, exit::Exit, runtime};
use crate::{
    config::Place,
    doctor::{findings, gather},
    local, status,
};

pub(super) fn status(place: &Place, output: Output) -> Result<()> {
    let (_, paths, _) = place.resolve()?;
    let found = runtime()?.block_on(local::status(&paths.socket))?;
    match output {
        Output::Table => print!("{}", status::render(&found)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
    }
    Ok(())
}

pub(super) fn doctor(place: &Place, output: Output) -> Result<()> {
    let (instance, paths, _) = place.resolve()?;
    let facts = runtime()?.block_on(gather(&instance, &paths));
    let findings = findings(&facts);
    match output {
        Output::Table => findings.iter().for_each(|finding| println!("{finding}")),
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
    }
    match findings.iter().filter(|finding| !finding.ok).count() {
        0 => Ok(()),
        wrong => Err(Coded::error(Exit::Unhealthy, format!("{wrong} to fix"))),
    }
}

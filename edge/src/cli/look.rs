//! `status` and `doctor`.

use anyhow::Result;

use super::{Output, exit::Coded, exit::Exit, runtime};
use crate::{
    config::Place,
    doctor::{gather, verdicts},
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
    let verdicts = verdicts(&facts);
    match output {
        Output::Table => verdicts.iter().for_each(|verdict| println!("{verdict}")),
        Output::Json => println!("{}", serde_json::to_string_pretty(&verdicts)?),
    }
    match verdicts.iter().filter(|verdict| !verdict.ok).count() {
        0 => Ok(()),
        wrong => Err(Coded::error(Exit::Unhealthy, format!("{wrong} to mend"))),
    }
}

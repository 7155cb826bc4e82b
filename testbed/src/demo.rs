//! The demonstration: a mesh of four sites with the real programs. It prints each command as a user
//! types it, and a summary with the result of each check.

mod sites;
mod steps;
mod summary;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::lab::{self, Lab};
use crate::privilege;
use crate::signals::Signals;
use sites::DemoSites;

/// Runs the demonstration and returns whether all checks passed. With `keep` the lab stays up;
/// otherwise, and always after SIGINT, SIGTERM or SIGHUP, it is removed.
///
/// With `started`, the Unix time of a first step before this one, the time since then is printed too.
pub fn run(keep: bool, started: Option<u64>) -> Result<bool> {
    privilege::ensure_tun()?;
    Signals::block_on(async |signals| {
        let lab = if keep { Lab::kept("demo")? } else { Lab::new("demo")? };
        let kept = keep.then(|| lab.id());
        let outcome = run_in(lab, keep, started, signals).await;
        if let (Some(id), Err(_)) = (kept, &outcome) {
            lab::remove(&id)?;
        }
        outcome
    })
}

async fn run_in(
    mut lab: Lab,
    keep: bool,
    started: Option<u64>,
    mut signals: Signals,
) -> Result<bool> {
    let start = Instant::now();
    let sites = DemoSites::build(&mut lab)?;
    let commands = if keep { Some(sites.lab_commands(&lab)?) } else { None };
    let Some(summary) = signals.run(move || steps::run_all(sites, start)).await? else {
        SILENT.store(true, Ordering::Relaxed);
        lab.remove()?;
        bail!("interrupted");
    };
    print(&summary.to_string());
    if let Some(started) = started {
        let seconds = cframe_pki::unix_now().saturating_sub(started);
        print(&format!("From the first key to here: {} min {:02} s.", seconds / 60, seconds % 60));
    }
    match commands {
        Some(commands) => print(&commands),
        None => lab.remove()?,
    }
    Ok(summary.passed())
}

/// Set after a signal: the steps still run while the lab is removed, and their errors are noise.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Prints a line and ignores errors, so that a closed stdout doesn't leave a lab behind.
fn print(line: &str) {
    if !SILENT.load(Ordering::Relaxed) {
        drop(writeln!(io::stdout(), "{line}"));
    }
}

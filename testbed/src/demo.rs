//! The demonstration: a mesh of four sites by the real programs, told as the commands that a user types, with a table
//! of what was seen at the end.

mod stage;
mod story;
mod summary;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::signals::Signals;
use crate::{Lab, down, privilege};
use stage::Stage;
use summary::Summary;

/// Runs it, and returns whether everything was as it should be. With `keep` the lab stays up afterwards; otherwise,
/// and after SIGINT, SIGTERM and SIGHUP in any case, nothing does.
///
/// # Errors
/// When the lab can't be made or removed, or was interrupted. What goes wrong inside is in the table.
pub fn run(keep: bool) -> Result<bool> {
    privilege::ensure_tun()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let lab = if keep { Lab::kept("demo")? } else { Lab::new("demo")? };
        let kept = keep.then(|| lab.id());
        let outcome = perform(lab, keep, &mut signals).await;
        if let (Some(id), Err(_)) = (kept, &outcome) {
            down(&id)?;
        }
        outcome
    })
}

async fn perform(mut lab: Lab, keep: bool, signals: &mut Signals) -> Result<bool> {
    let start = Instant::now();
    let stage = Stage::build(&mut lab)?;
    let guide = if keep { Some(stage.guide(&lab)?) } else { None };
    let (sender, told) = oneshot::channel();
    // The story blocks; this thread stays free to end it.
    thread::spawn(move || sender.send(story::tell(stage, start)));
    let summary: Summary = tokio::select! {
        summary = told => summary.context("the demo's thread has panicked")?,
        () = signals.any() => {
            SILENT.store(true, Ordering::Relaxed);
            lab.remove()?;
            anyhow::bail!("interrupted");
        }
    };
    print(&summary.to_string());
    match guide {
        Some(guide) => print(&guide),
        None => lab.remove()?,
    }
    Ok(summary.is_good())
}

/// Set once the lab is being taken from under the story, whose last words are of no interest.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Shows a line; that nobody reads on is no reason to leave a lab behind.
fn print(line: &str) {
    if !SILENT.load(Ordering::Relaxed) {
        drop(writeln!(io::stdout(), "{line}"));
    }
}

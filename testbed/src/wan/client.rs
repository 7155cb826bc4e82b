//! Reaching a lab's emulator, and starting it where there is none.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::protocol::{Answer, Request, WanStatus, socket};
use crate::{Netns, Process, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the emulator of the lab in `dir`; none if there is none.
pub(crate) fn ask(dir: &Path, request: &Request) -> Result<Option<Vec<WanStatus>>> {
    let path = socket(dir);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("reaching {}", path.display())),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(request).context("writing a request")?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("asking the WAN emulator")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("waiting for the WAN emulator")?;
    ensure!(!answer.is_empty(), "the WAN emulator ended: see log/wan.log in {}", dir.display());
    match serde_json::from_str(&answer).context("reading the WAN emulator's answer")? {
        Answer::Done(statuses) => Ok(Some(statuses)),
        Answer::Refused(why) => bail!(why),
    }
}

/// Starts an emulator in the router of the lab in `dir`, and waits until it can be asked.
pub(crate) fn start(dir: &Path, router: &Netns, outlives_us: bool) -> Result<Process> {
    let mut command = router.command(program()?);
    command.args(["wan", "run"]).arg(dir);
    let mut process = Process::start("wan", command, &dir.join("log"), outlives_us)?;
    let path = socket(dir);
    let mut ended = false;
    wait_until(PATIENCE, || {
        ended = !process.is_running();
        ended || UnixStream::connect(&path).is_ok()
    })
    .with_context(|| format!("waiting for {}", path.display()))?;
    ensure!(!ended, "the WAN emulator did not start:\n{}", process.log_tail(5));
    Ok(process)
}

/// The program `testbed`, from the running program itself or beside it.
fn program() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("finding this program's own path")?;
    exe.ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join("testbed"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("no program `testbed` beside {}: cargo build -p cframe-testbed", exe.display())
        })
}

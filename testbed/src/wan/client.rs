//! Requests to a lab's emulator, and its start.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::protocol::{Answer, Request, WanStatus, socket_path};
use crate::netns::Netns;
use crate::process::Process;
use crate::wait::wait_until;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a request to the emulator of the lab in `dir`. If none runs, one is started in the router
/// and returned with the answer.
pub(crate) fn send_or_start(
    dir: &Path,
    request: &Request,
    router: impl FnOnce() -> Result<Netns>,
) -> Result<(Vec<WanStatus>, Option<Process>)> {
    if let Some(statuses) = send_request(dir, request)? {
        return Ok((statuses, None));
    }
    let emulator = start_emulator(dir, &router()?)?;
    let answer = send_request(dir, request)?;
    Ok((answer.context("the WAN emulator ended: see log/wan.log")?, Some(emulator)))
}

/// Sends a request to the emulator of the lab in `dir`; `None` if none runs.
pub(crate) fn send_request(dir: &Path, request: &Request) -> Result<Option<Vec<WanStatus>>> {
    let path = socket_path(dir);
    // Checked first: the path of a lab without an emulator may be too long for a Unix socket.
    if !path.exists() {
        return Ok(None);
    }
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("connecting to {}", path.display()));
        }
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_string(request).context("encoding a request")?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("sending a request to the WAN emulator")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("waiting for the WAN emulator")?;
    ensure!(!answer.is_empty(), "the WAN emulator ended: see log/wan.log in {}", dir.display());
    match serde_json::from_str(&answer).context("decoding the WAN emulator's answer")? {
        Answer::Done(statuses) => Ok(Some(statuses)),
        Answer::Refused(reason) => bail!(reason),
    }
}

/// Starts an emulator in the router of the lab in `dir`, and waits until it accepts connections.
fn start_emulator(dir: &Path, router: &Netns) -> Result<Process> {
    let mut command = router.command(testbed_program()?);
    command.args(["wan", "run"]).arg(dir);
    let mut process = Process::start("wan", command, &dir.join("log"), router.outlives_us())?;
    let path = socket_path(dir);
    let mut ended = false;
    wait_until(TIMEOUT, || {
        ended = !process.is_running();
        ended || UnixStream::connect(&path).is_ok()
    })
    .with_context(|| format!("waiting for {}", path.display()))?;
    ensure!(!ended, "the WAN emulator did not start:\n{}", process.log_tail(5));
    Ok(process)
}

/// The program `testbed`: the running program, or one beside it or up to two directories above.
fn testbed_program() -> Result<PathBuf> {
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

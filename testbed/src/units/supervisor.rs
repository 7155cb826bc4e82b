//! Starts a service, and starts it again as its unit says, until it is stopped.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::file::Unit;
use super::manager::{Files, State, stop_span};
use super::process;

const POLL: Duration = Duration::from_millis(10);

pub(super) fn run(name: &str) -> Result<()> {
    let files = Files::of(name);
    let ended = supervise(name, &files);
    let state = match &ended {
        Ok(state) => *state,
        Err(_) => State::Failed,
    };
    files.set(state)?;
    ended.map(drop)
}

fn supervise(name: &str, files: &Files) -> Result<State> {
    loop {
        let unit = Unit::load(name)?;
        let kind = unit.last("Service.Type").unwrap_or_else(|| "simple".to_owned());
        let notified = (kind == "notify").then(|| listen(files)).transpose()?;
        let socket = files.path("notify").display().to_string();
        let extra = notified.iter().map(|_| ("NOTIFY_SOCKET", socket.clone())).collect::<Vec<_>>();
        let mut command = process::command(&unit, "Service.ExecStart", &extra)?;
        let mut child =
            command.process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        files.put("main", &child.id().to_string())?;
        if kind == "simple" {
            files.set(State::Active)?;
        }
        let status = until_end(&unit, &mut child, notified.as_ref(), files)?;
        if files.has("stop") {
            return Ok(State::Inactive);
        }
        println!("{name} has ended: {status}");
        if !again(&unit, status) {
            return Ok(if status.success() { State::Inactive } else { State::Failed });
        }
        files.set(State::Activating)?;
        let pause = unit.span("Service.RestartSec")?.unwrap_or(Duration::from_millis(100));
        let mut left = pause;
        while !left.is_zero() && !files.has("stop") {
            sleep(POLL.min(left));
            left = left.saturating_sub(POLL);
        }
        if files.has("stop") {
            return Ok(State::Inactive);
        }
    }
}

/// Its datagrams say that the service is ready (sd_notify(3)).
fn listen(files: &Files) -> Result<UnixDatagram> {
    let path = files.path("notify");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let socket =
        UnixDatagram::bind(&path).with_context(|| format!("binding {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Waits for the child's end, which a file `stop` brings about.
fn until_end(
    unit: &Unit,
    child: &mut Child,
    notified: Option<&UnixDatagram>,
    files: &Files,
) -> Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let mut message = [0; 4096];
    let mut stopping: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            // What it has started goes with it.
            let _ = kill_process_group(pid, Signal::KILL);
            return Ok(status);
        }
        match stopping {
            None if files.has("stop") => {
                let _ = kill_process(pid, Signal::TERM);
                stopping = Some(Instant::now());
            }
            Some(since) if since.elapsed() > stop_span(unit)? => {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            None | Some(_) => {}
        }
        if let Some(Ok(length)) = notified.map(|socket| socket.recv(&mut message)) {
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().any(|line| line == "READY=1") {
                files.set(State::Active)?;
            }
        }
        sleep(POLL);
    }
}

fn again(unit: &Unit, status: ExitStatus) -> bool {
    match unit.last("Service.Restart").as_deref() {
        Some("always") => true,
        Some("on-failure") => !status.success(),
        Some("on-abnormal") => status.signal().is_some(),
        _ => false,
    }
}

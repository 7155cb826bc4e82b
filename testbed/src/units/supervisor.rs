//! Runs a service, and restarts it as its unit says, until it is stopped.

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
use super::manager::{State, StateFiles, stop_timeout};
use super::process;

const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub(super) fn run(name: &str) -> Result<()> {
    let files = StateFiles::new(name);
    let ended = supervise(name, &files);
    let state = match &ended {
        Ok(state) => *state,
        Err(_) => State::Failed,
    };
    files.write_state(state)?;
    ended.map(drop)
}

fn supervise(name: &str, files: &StateFiles) -> Result<State> {
    loop {
        let unit = Unit::load(name)?;
        let kind = unit.last("Service.Type").unwrap_or_else(|| "simple".to_owned());
        let notifications = (kind == "notify").then(|| bind_notify_socket(files)).transpose()?;
        let socket = files.path("notify").display().to_string();
        let extra =
            notifications.iter().map(|_| ("NOTIFY_SOCKET", socket.clone())).collect::<Vec<_>>();
        let mut command = process::command(&unit, "Service.ExecStart", &extra)?;
        let mut child =
            command.process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        files.write("main", &child.id().to_string())?;
        if kind == "simple" {
            files.write_state(State::Active)?;
        }
        let status = wait_for_end(&unit, &mut child, notifications.as_ref(), files)?;
        if files.exists("stop") {
            return Ok(State::Inactive);
        }
        println!("{name} has ended: {status}");
        if !must_restart(&unit, status) {
            return Ok(if status.success() { State::Inactive } else { State::Failed });
        }
        files.write_state(State::Activating)?;
        let delay = unit.span("Service.RestartSec")?;
        let mut left = delay.unwrap_or(Duration::from_millis(100));
        while !left.is_zero() && !files.exists("stop") {
            sleep(POLL_INTERVAL.min(left));
            left = left.saturating_sub(POLL_INTERVAL);
        }
        if files.exists("stop") {
            return Ok(State::Inactive);
        }
    }
}

/// The socket on which the service reports that it is ready (sd_notify(3)).
fn bind_notify_socket(files: &StateFiles) -> Result<UnixDatagram> {
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

/// Waits for the child's end. A file `stop` makes this end the child.
fn wait_for_end(
    unit: &Unit,
    child: &mut Child,
    notifications: Option<&UnixDatagram>,
    files: &StateFiles,
) -> Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let mut message = [0; 4096];
    let mut stopping: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            // Kills its children.
            let _ = kill_process_group(pid, Signal::KILL);
            return Ok(status);
        }
        match stopping {
            None if files.exists("stop") => {
                let _ = kill_process(pid, Signal::TERM);
                stopping = Some(Instant::now());
            }
            Some(since) if since.elapsed() > stop_timeout(unit)? => {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            None | Some(_) => {}
        }
        if let Some(Ok(length)) = notifications.map(|socket| socket.recv(&mut message)) {
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.lines().any(|line| line == "READY=1") {
                files.write_state(State::Active)?;
            }
        }
        sleep(POLL_INTERVAL);
    }
}

fn must_restart(unit: &Unit, status: ExitStatus) -> bool {
    match unit.last("Service.Restart").as_deref() {
        Some("always") => true,
        Some("on-failure") => !status.success(),
        Some("on-abnormal") => status.signal().is_some(),
        _ => false,
    }
}

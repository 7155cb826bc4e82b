//! The verbs. A unit's supervisor writes its state to files below [`DIR`].

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Pid;

use super::{file::Unit, process};
use crate::process::last_lines;
use crate::wait::wait_until;

const DIR: &str = "/run/units";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
/// systemd's default for starting and stopping a service.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);
/// For the supervisor to kill a service that exceeds its time to stop.
const KILL_GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Inactive,
    Activating,
    Active,
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inactive => "inactive",
            Self::Activating => "activating",
            Self::Active => "active",
            Self::Failed => "failed",
        })
    }
}

/// The files of a unit's state.
pub(super) struct StateFiles(PathBuf);

impl StateFiles {
    pub(super) fn new(name: &str) -> Self {
        Self(Path::new(DIR).join(name))
    }

    fn create_dir(&self) -> Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Replaces a file atomically.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let (new, path) = (self.path(".new"), self.path(name));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    pub(super) fn write_state(&self, state: State) -> Result<()> {
        self.write("state", &state.to_string())
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn state(&self) -> State {
        let text = fs::read_to_string(self.path("state")).unwrap_or_default();
        let all = [State::Activating, State::Active, State::Failed];
        all.into_iter().find(|state| state.to_string() == text).unwrap_or(State::Inactive)
    }

    fn pid(&self, name: &str) -> Option<Pid> {
        Pid::from_raw(fs::read_to_string(self.path(name)).ok()?.parse().ok()?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// The file with a unit's output.
pub(super) fn log_path(name: &str) -> PathBuf {
    Path::new("/var/log").join(format!("{name}.log"))
}

pub(super) fn state(name: &str) -> Result<State> {
    Unit::load(name)?;
    Ok(StateFiles::new(name).state())
}

pub(super) fn start(name: &str, wait: bool) -> Result<()> {
    let unit = Unit::load(name)?;
    let files = StateFiles::new(name);
    files.create_dir()?;
    if name.ends_with(".timer") {
        return start_timer(&unit, &files);
    }
    if matches!(files.state(), State::Active | State::Activating) {
        return Ok(());
    }
    files.remove("stop")?;
    files.write_state(State::Activating)?;
    let log = OpenOptions::new().create(true).append(true).open(log_path(name))?;
    let mut supervisor = Command::new("/proc/self/exe");
    supervisor
        .args(["supervise", name])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    supervisor.spawn().context("starting the supervisor")?;
    if !wait {
        return Ok(());
    }
    let waited = wait_until(DEFAULT_TIMEOUT, || files.state() != State::Activating);
    let state = files.state();
    let oneshot = unit.last("Service.Type").as_deref() == Some("oneshot");
    if state == State::Active || (state == State::Inactive && oneshot) {
        return Ok(());
    }
    let how = if waited.is_ok() {
        state.to_string()
    } else {
        format!("not up after {DEFAULT_TIMEOUT:?}")
    };
    bail!("{name} is {how}\n{}", log_tail(name))
}

/// Checks that a timer has a time and a service.
fn start_timer(unit: &Unit, files: &StateFiles) -> Result<()> {
    let times = ["OnCalendar", "OnBootSec", "OnUnitActiveSec"];
    let has = times.iter().any(|key| unit.last(&format!("Timer.{key}")).is_some());
    ensure!(has, "{} has none of {}", unit.name(), times.join(", "));
    let stem = unit.name().trim_end_matches(".timer");
    let service = unit.last("Timer.Unit").unwrap_or_else(|| format!("{stem}.service"));
    Unit::load(&service)?;
    files.write_state(State::Active)
}

pub(super) fn stop(name: &str) -> Result<()> {
    let unit = Unit::load(name)?;
    let files = StateFiles::new(name);
    if name.ends_with(".timer") || !matches!(files.state(), State::Active | State::Activating) {
        return if files.0.exists() { files.write_state(State::Inactive) } else { Ok(()) };
    }
    files.write("stop", "")?;
    let timeout = stop_timeout(&unit)? + KILL_GRACE;
    let stopped = || files.state() == State::Inactive;
    wait_until(timeout, stopped).map_err(|_| anyhow!("{name} can't be stopped")).map(drop)
}

/// The time after which a service that does not stop is killed.
pub(super) fn stop_timeout(unit: &Unit) -> Result<Duration> {
    Ok(unit.span("Service.TimeoutStopSec")?.unwrap_or(DEFAULT_TIMEOUT))
}

pub(super) fn reload(name: &str) -> Result<()> {
    let unit = Unit::load(name)?;
    let files = StateFiles::new(name);
    ensure!(files.state() == State::Active, "{name} is not active, it can't be reloaded");
    let main = files.pid("main").with_context(|| format!("{name} has no process"))?;
    let main = [("MAINPID", main.as_raw_nonzero().to_string())];
    let status = process::command(&unit, "Service.ExecReload", &main)?.status()?;
    ensure!(status.success(), "ExecReload of {name}: {status}");
    Ok(())
}

pub(super) fn enable(name: &str) -> Result<()> {
    let unit = Unit::load(name)?;
    let wanted = unit.last("Install.WantedBy");
    ensure!(wanted.is_some(), "{name} has no WantedBy= in a section [Install]");
    fs::create_dir_all(WANTS).with_context(|| format!("making {WANTS}"))?;
    match symlink(Path::new("..").join(name), Path::new(WANTS).join(name)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("enabling {name}")),
    }
}

pub(super) fn disable(name: &str) -> Result<()> {
    match fs::remove_file(Path::new(WANTS).join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        gone => gone.with_context(|| format!("disabling {name}")),
    }
}

pub(super) fn is_enabled(name: &str) -> bool {
    Path::new(WANTS).join(name).symlink_metadata().is_ok()
}

fn log_tail(name: &str) -> String {
    let text = fs::read(log_path(name)).unwrap_or_default();
    last_lines(&String::from_utf8_lossy(&text), 20)
}

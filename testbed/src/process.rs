use std::fs::{File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{tool, wait_until};

/// A running program of a lab, with stdout and stderr in a log file. Dropping it kills it and waits
/// for its end, unless its lab is a kept one.
#[derive(Debug)]
pub struct Process {
    name: String,
    command: Option<Command>,
    child: Child,
    started: Instant,
    log: PathBuf,
    /// Where in the log the latest start begins.
    log_start: usize,
    outlives_us: bool,
}

impl Process {
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        logs: &Path,
        outlives_us: bool,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let out = append_to(&log)?;
        let err = out.try_clone().context("duplicating the log's handle")?;
        let log_start = length(&out)?;
        // A group of its own: a ^C on the terminal is for the test, which then stops its programs
        // itself.
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let (command, child) = spawn(command)?;
        Ok(Self {
            name: name.to_owned(),
            command: Some(command),
            child,
            started: Instant::now(),
            log,
            log_start,
            outlives_us,
        })
    }

    /// The name given at its start, which is also the log's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was (last) started: taken right after the exec.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// Asks it to stop with SIGTERM; an error, with the log's end, if it takes longer than
    /// `timeout` or exits with a failure.
    pub fn terminate(&mut self, timeout: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(timeout)?;
        if !status.success() && status.signal() != Some(Signal::TERM.as_raw()) {
            bail!("{} did not stop cleanly: {status}\n{}", self.name, self.log_tail(20));
        }
        Ok(())
    }

    /// Sends a signal; nothing happens if it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        kill_process(self.pid_of_child(), signal)
            .with_context(|| format!("signalling {}", self.name))
    }

    /// Waits for its end; an error, with the log's end, if that takes longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let mut ended = None;
        let waited = wait_until(timeout, || {
            ended = self.child.try_wait().transpose();
            ended.is_some()
        });
        match ended {
            Some(status) => status.with_context(|| format!("waiting for {}", self.name)),
            None => Err(waited.expect_err("it did not end"))
                .with_context(|| format!("{} still runs\n{}", self.name, self.log_tail(20))),
        }
    }

    /// Starts the same command again after its end, with the same log file.
    pub fn restart(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} still runs: kill9() or terminate() it first", self.name);
        }
        let command = self
            .command
            .take()
            .with_context(|| format!("an earlier restart of {} failed", self.name))?;
        self.log_start = length(&append_to(&self.log)?)?;
        let (command, child) = spawn(command)?;
        self.command = Some(command);
        self.child = child;
        self.started = Instant::now();
        Ok(())
    }

    /// Resident memory in KiB now (`VmRSS` of proc(5)).
    pub fn rss_kib(&self) -> Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// The most resident memory it has had, in KiB (`VmHWM` of proc(5)).
    pub fn peak_rss_kib(&self) -> Result<u64> {
        self.status_kib("VmHWM:")
    }

    /// What it has written since its latest start; the file has all of its starts.
    pub fn log(&self) -> String {
        match std::fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default())
                .into_owned(),
            Err(error) => format!("(no log: {}: {error})", self.log.display()),
        }
    }

    /// The log file.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The log's last lines.
    pub fn log_tail(&self, lines: usize) -> String {
        last_lines(&self.log(), lines)
    }

    /// Waits until it has written `text` since its latest start; an error, with the log's end,
    /// after `timeout` or when the process has ended.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) -> Result<Duration> {
        let mut ended = false;
        let waited = wait_until(timeout, || {
            // Looked at before the log: what it wrote last counts.
            ended = !self.is_running();
            self.log().contains(text) || ended
        });
        match waited {
            Ok(elapsed) if self.log().contains(text) => Ok(elapsed),
            Ok(_) | Err(_) => {
                let state = if ended { "has ended" } else { "still runs" };
                bail!("{} {state} without writing {text:?}:\n{}", self.name, self.log_tail(20))
            }
        }
    }

    fn status_kib(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path)
            .with_context(|| format!("{} has ended: reading {path}", self.name))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok())
            .with_context(|| format!("no {field} in {path}: {} has ended", self.name))
    }

    fn pid_of_child(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.outlives_us {
            return;
        }
        let group = self.pid_of_child();
        // The group too: a shell's children would live on.
        if self.is_running() && kill_process_group(group, Signal::KILL) != Err(Errno::SRCH) {
            drop(self.child.wait());
        }
    }
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn length(log: &File) -> Result<usize> {
    let length = log.metadata().context("looking at a log")?.len();
    usize::try_from(length).context("a log that large")
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts children from a thread that lives as long as the process: the kernel kills them when the
/// thread that started them ends, and a test's own threads come and go.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || jobs.into_iter().for_each(|job| job()))
        .expect("a thread can be started");
    sender
});

fn spawn(mut command: Command) -> Result<(Command, Child)> {
    let (answer, answered) = mpsc::channel();
    let job = move || {
        let spawned = command.spawn();
        drop(answer.send((command, spawned)));
    };
    SPAWNER.send(Box::new(job)).map_err(|_| anyhow!("the spawner has ended"))?;
    let (command, spawned) = answered.recv().context("the spawner has ended")?;
    match spawned {
        Ok(child) => Ok((command, child)),
        Err(error) => Err(tool::cannot_start(&command, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(5);

    fn shell(script: &str, logs: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("sh", command, logs, false).unwrap()
    }

    #[test]
    fn a_process_outlives_the_thread_that_started_it_but_not_its_handle() {
        let logs = tempfile::tempdir().unwrap();
        let mut process = thread::scope(|scope| {
            scope.spawn(|| shell("echo up; exec sleep 60", logs.path())).join().unwrap()
        });
        process.wait_for_log("up", SECOND).unwrap();
        assert!(process.is_running());
        assert!(process.rss_kib().unwrap() > 0);
        let pid = process.pid();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_process_can_be_killed_and_started_again_with_one_log() {
        let logs = tempfile::tempdir().unwrap();
        let mut process = shell("echo start $$; exec sleep 60", logs.path());
        process.wait_for_log("start", SECOND).unwrap();
        process.restart().unwrap_err();
        process.kill9().unwrap();
        process.restart().unwrap();
        process.wait_for_log("start", SECOND).unwrap();
        assert_eq!(process.log(), format!("start {}\n", process.pid()));
        assert_eq!(std::fs::read_to_string(process.log_path()).unwrap().lines().count(), 2);
        process.terminate(SECOND).unwrap();
    }

    #[test]
    fn waiting_for_a_log_line_ends_when_the_process_does() {
        let logs = tempfile::tempdir().unwrap();
        let mut process = shell("echo last words", logs.path());
        let error = process.wait_for_log("ready", SECOND).unwrap_err().to_string();
        assert!(error.contains("has ended") && error.contains("last words"), "{error}");
    }
}

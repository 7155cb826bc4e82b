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

use crate::wait::wait_until;
use crate::{procfs, tool};

/// A program of a lab, with stdout and stderr in a log file. Dropping it kills it and waits for its
/// end, unless its lab is a kept one.
#[derive(Debug)]
pub struct Process {
    name: String,
    command: Option<Command>,
    child: Child,
    started: Instant,
    log: PathBuf,
    /// Length of the log at the latest start.
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
        // Its own process group, so that ^C on the terminal reaches only the test, which then stops
        // its programs.
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

    /// The name of the program and of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Time of the latest start, taken right after the exec.
    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end; an error with the log's last lines if that takes longer
    /// than `timeout` or the exit status is a failure.
    pub fn terminate(&mut self, timeout: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(timeout)?;
        if !status.success() && status.signal() != Some(Signal::TERM.as_raw()) {
            bail!("{} did not stop cleanly: {status}\n{}", self.name, self.log_tail(20));
        }
        Ok(())
    }

    /// Sends a signal; does nothing if the program has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        kill_process(self.pid_of_child(), signal)
            .with_context(|| format!("signalling {}", self.name))
    }

    /// Waits for its end; an error with the log's last lines after `timeout`.
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

    /// Starts the same command again after its end, with the same log file. Its earlier output is
    /// then not part of [`Self::log`].
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

    /// Resident memory in KiB (`VmRSS` of proc(5)).
    pub fn rss_kib(&self) -> Result<u64> {
        self.proc_value(procfs::status_kib(self.pid(), "VmRSS"))
    }

    /// Peak resident memory in KiB (`VmHWM` of proc(5)).
    pub fn peak_rss_kib(&self) -> Result<u64> {
        self.proc_value(procfs::status_kib(self.pid(), "VmHWM"))
    }

    /// User and system time of all threads since the latest start, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.proc_value(procfs::cpu_seconds(self.pid()))
    }

    /// User and system time of the threads of this name, in seconds.
    pub(crate) fn thread_cpu_seconds(&self, name: &str) -> Result<f64> {
        self.proc_value(procfs::thread_cpu_seconds(self.pid(), name))
    }

    fn proc_value<T>(&self, value: Result<T>) -> Result<T> {
        value.with_context(|| format!("{} has ended", self.name))
    }

    /// The output since the latest start. The file has the output of all starts.
    pub fn log(&self) -> String {
        match std::fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default())
                .into_owned(),
            Err(error) => format!("(no log: {}: {error})", self.log.display()),
        }
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of [`Self::log`].
    pub fn log_tail(&self, lines: usize) -> String {
        last_lines(&self.log(), lines)
    }

    /// Waits until [`Self::log`] contains `text`; an error with the log's last lines after `timeout`
    /// or when the program has ended.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) -> Result<Duration> {
        let mut ended = false;
        let waited = wait_until(timeout, || {
            // Checked before the log, so that the last output of an ended program is read.
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
        // The whole group, so that no child of a shell stays.
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
    let length = log.metadata().context("reading the log's length")?.len();
    usize::try_from(length).context("the log is too large")
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that starts children and never ends: the kernel kills a child when the thread that
/// started it ends, and the threads of tests end early.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || jobs.into_iter().for_each(|job| job()))
        .expect("a thread can be started");
    sender
});

fn spawn(mut command: Command) -> Result<(Command, Child)> {
    let (sender, result) = mpsc::channel();
    let job = move || {
        let spawned = command.spawn();
        drop(sender.send((command, spawned)));
    };
    SPAWNER.send(Box::new(job)).map_err(|_| anyhow!("the spawner has ended"))?;
    let (command, spawned) = result.recv().context("the spawner has ended")?;
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

//! The real program: its directory, its ports, its exit codes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cframe_protocol::session::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    controller::socket,
    credentials::admin_of,
    wait::{TIMEOUT, until},
};

/// `cframe-controller` with a directory and ports that were free a moment ago.
pub(crate) struct ControllerProgram {
    /// The flags that select the store; none for the embedded one.
    pub(crate) store_flags: Vec<String>,
    directory: TempDir,
    control: SocketAddr,
    enroll: SocketAddr,
    http: SocketAddr,
}

impl ControllerProgram {
    pub(crate) fn new() -> Self {
        let http = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            store_flags: Vec::new(),
            directory: TempDir::new().unwrap(),
            control: socket().local_addr().unwrap(),
            enroll: socket().local_addr().unwrap(),
            http: http.local_addr().unwrap(),
        }
    }

    pub(crate) fn on_etcd(endpoints: &[String]) -> Self {
        Self { store_flags: etcd_flags(endpoints), ..Self::new() }
    }

    /// The program with a mesh `m.test` in its data directory.
    pub(crate) fn initialised() -> Self {
        let program = Self::new();
        succeeded(&program.init());
        program
    }

    pub(crate) fn init(&self) -> Output {
        let (address, context) = (self.control.to_string(), self.shown("admin.toml"));
        let mesh = ["--mesh", "m.test", "--address", &address, "--admin-context", &context];
        self.command(&[&["init"], &mesh[..]].concat())
    }

    /// Runs a command to its end.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.command_in(&self.data(), arguments)
    }

    /// Runs a command to its end with another data directory.
    pub(crate) fn command_in(&self, data: &Path, arguments: &[&str]) -> Output {
        let mut command = program();
        command.args(arguments).args(&self.store_flags).arg("--data-dir").arg(data);
        command.output().unwrap()
    }

    /// Runs the controller, and waits until it serves.
    pub(crate) fn run(&self) -> RunningProgram {
        self.run_in(&self.data())
    }

    /// Runs the controller with another data directory, and waits until it serves.
    pub(crate) fn run_in(&self, data: &Path) -> RunningProgram {
        let mut running = self.spawn_in(data);
        let start = Instant::now();
        while !self.log().contains("controller is up") {
            assert_eq!(running.0.try_wait().unwrap(), None, "it ended: {}", self.log());
            assert!(start.elapsed() < TIMEOUT, "it does not come up: {}", self.log());
            thread::sleep(Duration::from_millis(1));
        }
        running
    }

    /// Runs the controller. [`Self::ready`] waits until it serves.
    pub(crate) fn spawn(&self) -> RunningProgram {
        self.spawn_in(&self.data())
    }

    fn spawn_in(&self, data: &Path) -> RunningProgram {
        let log = std::fs::File::create(self.file("log")).unwrap();
        let mut command = program();
        command
            .arg("run")
            .args(&self.store_flags)
            .arg("--data-dir")
            .arg(data)
            .args(["--control-listen", &self.control.to_string()])
            .args(["--enroll-listen", &self.enroll.to_string()])
            .args(["--metrics-listen", &self.http.to_string()])
            .env("RUST_LOG", "info")
            .stderr(Stdio::from(log));
        RunningProgram(command.spawn().unwrap())
    }

    /// The answer to an HTTP request, or none if nobody answers.
    pub(crate) fn fetch(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub(crate) async fn ready(&self) {
        until(async || self.fetch("/readyz").is_some_and(|answer| answer.ends_with("ready\n")))
            .await;
    }

    /// What the controller has logged since it was last run.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.file("data")
    }

    /// The file with the first admin's context.
    pub(crate) fn context(&self) -> PathBuf {
        self.file("admin.toml")
    }

    /// A path beside the data directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A path beside the data directory, as an argument.
    pub(crate) fn shown(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    pub(crate) fn admin(&self) -> Client {
        admin_of(&self.context())
    }
}

/// The flags for a store in etcd.
pub(crate) fn etcd_flags(endpoints: &[String]) -> Vec<String> {
    ["--store", "etcd", "--etcd-endpoint", &endpoints.join(",")].map(str::to_owned).into()
}

/// A controller that runs until it is dropped.
pub(crate) struct RunningProgram(Child);

impl RunningProgram {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        tokio::task::spawn_blocking(move || self.0.wait().unwrap()).await.unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, for commands without a data directory.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cframe-controller"));
    command.env("NO_COLOR", "1");
    command
}

/// Checks that a command succeeded, and returns what it printed.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Checks that a command failed with this exit code and one line that contains this.
#[track_caller]
pub(crate) fn failed(output: &Output, code: i32, part: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.lines().count() == 1 && text.contains(part), "{text}");
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

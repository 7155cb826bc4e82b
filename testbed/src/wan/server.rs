//! The emulator's process: it serves the socket, and sets up devices and rules in the router's
//! namespace. A second thread handles the packets, so that no client and no `ip` delays them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use cframe_controller::decide::check::closest;
use cframe_edge::host::tun::Tun;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FlockOperation, flock};

use super::devices::{self, Rules};
use super::emulator::{Command, Emulator};
use super::protocol::{Answer, Links, Request, WanStatus, read_links, socket_path};
use super::{WanCounters, WanPath};
use crate::tool;

/// Timeout for a client's request and for writing the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum length of a request in bytes.
const MAX_REQUEST: u64 = 1 << 20;

/// MTU of the lab's links.
const MTU: u16 = 1500;

/// Emulates paths in this process's network namespace, for the lab in `dir`, until it is killed.
pub(crate) fn run(dir: &Path) -> Result<()> {
    let lock = File::create(dir.join("wan.lock")).context("creating wan.lock")?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .context("another emulator runs for this lab")?;
    let (sender, commands) = mpsc::channel();
    let wake: Arc<OwnedFd> =
        Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("creating an eventfd")?);
    let emulator = Emulator::new(commands, wake.clone());
    thread::Builder::new()
        .name("wan".into())
        .spawn(move || {
            if let Err(error) = emulator.run() {
                eprintln!("{error:#}");
            }
            // Without this thread the paths are black holes, so the process ends visibly.
            std::process::exit(1);
        })
        .context("starting a thread")?;
    let router = Router {
        dir: dir.to_owned(),
        commands: sender,
        wake,
        lanes: Vec::new(),
        rules: Rules::default(),
    };
    router.delete_stale_rules();
    serve(router, &listen(&socket_path(dir))?)
}

/// This process holds the lock, so an existing socket belongs to no running emulator.
fn listen(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))
}

fn serve(mut router: Router, listener: &UnixListener) -> Result<()> {
    loop {
        let (client, _) = listener.accept().context("accepting a client")?;
        if let Err(error) = handle_client(&mut router, &client) {
            eprintln!("a client: {error:#}");
        }
    }
}

fn handle_client(router: &mut Router, mut client: &UnixStream) -> Result<()> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(client.take(MAX_REQUEST)).read_line(&mut line).context("reading a request")?;
    if line.is_empty() {
        // The client only checked that the emulator accepts connections.
        return Ok(());
    }
    let result = serde_json::from_str(&line)
        .with_context(|| format!("not a request: {line:?}"))
        .and_then(|request| router.handle_request(request));
    let answer = match result {
        Ok(statuses) => Answer::Done(statuses),
        Err(error) => Answer::Refused(format!("{error:#}")),
    };
    let mut text = serde_json::to_string(&answer).context("encoding an answer")?;
    text.push('\n');
    client.write_all(text.as_bytes()).context("writing an answer")
}

/// The devices and rules that this process has created in the router.
struct Router {
    dir: PathBuf,
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    lanes: Vec<Lane>,
    rules: Rules,
}

/// A direction that has a device. Its index in [`Router::lanes`] is its number in the emulator.
struct Lane {
    from: String,
    to: String,
    /// `None` once the conditions were cleared: the kernel then forwards the packets.
    path: Option<WanPath>,
}

impl Router {
    /// Deletes the rules of an emulator that was killed: they lead to devices that no longer exist.
    fn delete_stale_rules(&self) {
        for family in ["-4", "-6"] {
            let delete = || {
                let mut ip = Program::new("ip");
                ip.args([family, "rule", "del", "pref", &devices::PREFERENCE.to_string()]);
                tool::run(&mut ip, "")
            };
            while delete().is_ok() {}
        }
    }

    fn handle_request(&mut self, request: Request) -> Result<Vec<WanStatus>> {
        let links = read_links(&self.dir)?;
        match request {
            Request::Set { pairs, path } => {
                path.check()?;
                pairs.iter().try_for_each(|(from, to)| check_pair(&links, from, to))?;
                for (from, to) in pairs {
                    self.set_conditions(&links, from, to, path.clone())?;
                }
                self.update_rules(&links)?;
            }
            Request::Clear { pairs } => {
                pairs.iter().try_for_each(|(from, to)| check_pair(&links, from, to))?;
                for lane in &mut self.lanes {
                    if pairs.iter().any(|(from, to)| (from, to) == (&lane.from, &lane.to)) {
                        lane.path = None;
                    }
                }
                // Packets that the emulator still holds are delivered at their due times.
                self.update_rules(&links)?;
            }
            Request::Refresh => self.update_rules(&links)?,
            Request::Show => {}
        }
        self.statuses()
    }

    fn set_conditions(
        &mut self,
        links: &Links,
        from: String,
        to: String,
        path: WanPath,
    ) -> Result<()> {
        let known = self.lanes.iter().position(|lane| (&lane.from, &lane.to) == (&from, &to));
        let number = match known {
            Some(number) => number,
            None => self.add_lane(links, from, to)?,
        };
        self.lanes[number].path = Some(path.clone());
        self.send_command(Command::Set { number, path })
    }

    /// Creates the device of a direction and returns the direction's number.
    fn add_lane(&mut self, links: &Links, from: String, to: String) -> Result<usize> {
        let number = self.lanes.len();
        let device = devices::device(links[&from].table, links[&to].table);
        let tun = Tun::open(&device, MTU)?;
        // The device has no address, so any reverse-path filter would drop its packets. ICMP errors
        // have one of the router's addresses as their source.
        for (setting, value) in [("rp_filter", "0"), ("accept_local", "1")] {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/{setting}");
            fs::write(&path, value).with_context(|| format!("writing {path}"))?;
        }
        let [v4, v6] = devices::routes(&device, number);
        ip("-4", &v4)?;
        ip("-6", &v6)?;
        self.send_command(Command::Add { name: format!("{from} {to}"), tun })?;
        self.lanes.push(Lane { from, to, path: None });
        Ok(number)
    }

    /// Changes the policy rules to match the directions with conditions and the links' addresses.
    fn update_rules(&mut self, links: &Links) -> Result<()> {
        let active = self.lanes.iter().enumerate().filter(|(_, lane)| lane.path.is_some());
        let wanted = devices::rules(
            links,
            active.map(|(number, lane)| (number, lane.from.as_str(), lane.to.as_str())),
        );
        for (family, (installed, wanted)) in
            ["-4", "-6"].into_iter().zip(self.rules.iter_mut().zip(wanted))
        {
            let lines = devices::difference(installed, &wanted);
            if !lines.is_empty() {
                ip(family, &lines)?;
            }
            *installed = wanted;
        }
        for (number, lane) in self.lanes.iter().enumerate() {
            let gateways = links.get(&lane.from).map(|link| link.gateways.clone());
            self.send_command(Command::Gateways {
                number,
                gateways: gateways.unwrap_or_default(),
            })?;
        }
        Ok(())
    }

    fn statuses(&self) -> Result<Vec<WanStatus>> {
        let (sender, counts) = mpsc::channel();
        self.send_command(Command::Count(sender))?;
        let counts: Vec<WanCounters> = counts.recv().map_err(|_| anyhow!("the emulator ended"))?;
        let statuses = self.lanes.iter().zip(counts).filter_map(|(lane, counters)| {
            let (from, to) = (lane.from.clone(), lane.to.clone());
            Some(WanStatus { from, to, path: lane.path.clone()?, counters })
        });
        Ok(statuses.collect())
    }

    fn send_command(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| anyhow!("the emulator ended"))?;
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).context("waking the emulator")?;
        Ok(())
    }
}

fn check_pair(links: &Links, from: &str, to: &str) -> Result<()> {
    for name in [from, to] {
        if !links.contains_key(name) {
            let names: Vec<_> = links.keys().map(String::as_str).collect();
            let hint = closest(name, names.iter().copied())
                .map_or_else(|| ".".to_owned(), |name| format!(": did you mean {name}?"));
            bail!("there is no site {name:?}{hint} The lab has {}", names.join(", "));
        }
    }
    ensure!(from != to, "a path leads from one site to another, not from {from} to itself");
    Ok(())
}

fn ip(family: &str, lines: &str) -> Result<()> {
    tool::run(Program::new("ip").args([family, "-batch", "-"]), &format!("{lines}\n"))?;
    Ok(())
}

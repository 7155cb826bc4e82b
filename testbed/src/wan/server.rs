//! The emulator's process: its socket, and what it does to the router that it runs in. Packets are
//! another thread's, which no client and no `ip` ever holds up.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use cframe_controller::decide::check::closest;
use cframe_edge::host::tun::Tun;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FlockOperation, flock};

use super::devices::{self, Rules};
use super::emulator::{Command, Emulator};
use super::protocol::{Answer, Links, Request, WanStatus, read_links, socket};
use super::{WanCounters, WanPath};
use crate::tool;

/// How long a client may take for its line.
const PATIENCE: Duration = Duration::from_secs(2);

/// The largest request that is read.
const MAX_REQUEST: u64 = 1 << 20;

/// What the links of a lab have.
const MTU: u16 = 1500;

/// Emulates paths in the namespace that it was started in, for the lab in `dir`, until it is killed.
pub(super) fn run(dir: &Path) -> Result<()> {
    let lock = File::create(dir.join("wan.lock")).context("making wan.lock")?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .context("another emulator runs for this lab")?;
    let (sender, commands) = mpsc::channel();
    let wake: Arc<OwnedFd> =
        Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("making an eventfd")?);
    let emulator = Emulator::new(commands, wake.clone());
    thread::Builder::new()
        .name("wan".into())
        .spawn(move || {
            if let Err(error) = emulator.run() {
                eprintln!("{error:#}");
            }
            // Without it the paths are black holes: better that everybody sees the end.
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
    router.forget_predecessor();
    serve(router, &listen(&socket(dir))?)
}

/// The lock is ours, so a socket that is there is nobody's.
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
        // One that hangs up is no concern of the others.
        if let Err(error) = answer(&mut router, &client) {
            eprintln!("a client: {error:#}");
        }
    }
}

fn answer(router: &mut Router, mut client: &UnixStream) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(client.take(MAX_REQUEST)).read_line(&mut line).context("reading a request")?;
    if line.is_empty() {
        // It only wanted to know whether we are here.
        return Ok(());
    }
    let done = serde_json::from_str(&line)
        .with_context(|| format!("not a request: {line:?}"))
        .and_then(|request| router.obey(request));
    let answer = match done {
        Ok(statuses) => Answer::Done(statuses),
        Err(error) => Answer::Refused(format!("{error:#}")),
    };
    let mut text = serde_json::to_string(&answer).context("writing an answer")?;
    text.push('\n');
    client.write_all(text.as_bytes()).context("writing an answer")
}

/// The router's devices and rules, as this process made them.
struct Router {
    dir: PathBuf,
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    lanes: Vec<Lane>,
    rules: Rules,
}

/// A direction that has a device; in the emulator's order.
struct Lane {
    from: String,
    to: String,
    /// None when the kernel forwards again.
    path: Option<WanPath>,
}

impl Router {
    /// Rules lead into devices that nobody reads if an emulator was killed.
    fn forget_predecessor(&self) {
        for family in ["-4", "-6"] {
            let delete = || {
                let mut ip = Program::new("ip");
                ip.args([family, "rule", "del", "pref", &devices::PREFERENCE.to_string()]);
                tool::run(&mut ip, "")
            };
            while delete().is_ok() {}
        }
    }

    fn obey(&mut self, request: Request) -> Result<Vec<WanStatus>> {
        let links = read_links(&self.dir)?;
        match request {
            Request::Set { pairs, path } => {
                path.check()?;
                pairs.iter().try_for_each(|(from, to)| check_pair(&links, from, to))?;
                for (from, to) in pairs {
                    self.set(&links, from, to, path.clone())?;
                }
                self.lead(&links)?;
            }
            Request::Clear { pairs } => {
                pairs.iter().try_for_each(|(from, to)| check_pair(&links, from, to))?;
                for lane in &mut self.lanes {
                    if pairs.iter().any(|(from, to)| (from, to) == (&lane.from, &lane.to)) {
                        lane.path = None;
                    }
                }
                // What is on its way stays so, until it is due.
                self.lead(&links)?;
            }
            Request::Refresh => self.lead(&links)?,
            Request::Show => {}
        }
        self.statuses()
    }

    fn set(&mut self, links: &Links, from: String, to: String, path: WanPath) -> Result<()> {
        let known = self.lanes.iter().position(|lane| (&lane.from, &lane.to) == (&from, &to));
        let number = match known {
            Some(number) => number,
            None => self.add(links, from, to)?,
        };
        self.lanes[number].path = Some(path.clone());
        self.command(Command::Set { number, path })
    }

    fn add(&mut self, links: &Links, from: String, to: String) -> Result<usize> {
        let number = self.lanes.len();
        let device = devices::device(links[&from].table, links[&to].table);
        let tun = Tun::open(&device, MTU)?;
        // A filter of any strictness refuses all that comes from a device without an address; and
        // answers about the MTU come from the router's own.
        for (setting, value) in [("rp_filter", "0"), ("accept_local", "1")] {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/{setting}");
            fs::write(&path, value).with_context(|| format!("writing {path}"))?;
        }
        let [v4, v6] = devices::routes(&device, number);
        ip("-4", &v4)?;
        ip("-6", &v6)?;
        self.command(Command::Add { name: format!("{from} {to}"), tun })?;
        self.lanes.push(Lane { from, to, path: None });
        Ok(number)
    }

    /// Has the kernel lead packets into the devices of those directions that have conditions, as the
    /// links' addresses are now.
    fn lead(&mut self, links: &Links) -> Result<()> {
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
            self.command(Command::Gateways { number, gateways: gateways.unwrap_or_default() })?;
        }
        Ok(())
    }

    fn statuses(&self) -> Result<Vec<WanStatus>> {
        let (sender, counts) = mpsc::channel();
        self.command(Command::Count(sender))?;
        let counts: Vec<WanCounters> = counts.recv().map_err(|_| anyhow!("the emulator ended"))?;
        let statuses = self.lanes.iter().zip(counts).filter_map(|(lane, counters)| {
            let (from, to) = (lane.from.clone(), lane.to.clone());
            Some(WanStatus { from, to, path: lane.path.clone()?, counters })
        });
        Ok(statuses.collect())
    }

    fn command(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| anyhow!("the emulator ended"))?;
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).context("waking the emulator")?;
        Ok(())
    }
}

fn check_pair(links: &Links, from: &str, to: &str) -> Result<()> {
    for name in [from, to] {
        if !links.contains_key(name) {
            let names: Vec<_> = links.keys().map(String::as_str).collect();
            let meant = closest(name, names.iter().copied())
                .map_or_else(String::new, |name| format!(", did you mean {name}?"));
            return Err(anyhow!("no site {name:?}{meant} The lab has {}", names.join(", ")));
        }
    }
    ensure!(from != to, "a path leads from one site to another, not from {from} to itself");
    Ok(())
}

fn ip(family: &str, lines: &str) -> Result<()> {
    tool::run(Program::new("ip").args([family, "-batch", "-"]), &format!("{lines}\n"))?;
    Ok(())
}

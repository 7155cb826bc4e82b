//! A host with many foreign routes, and with devices that come and go.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::tool;

/// Adds `count` routes, 500,000 at most, over a new device `flood0`, as a router has them that takes the routes of the
/// whole internet. They are /26 prefixes of 64.0.0.0/7 and later, in the main table.
pub fn add_routes(host: &Host, count: u32) -> Result<()> {
    ensure!(count <= 500_000, "{count} routes: 500,000 at most");
    host.ip("link add flood0 type bridge\nlink set flood0 up")?;
    let mut lines = String::new();
    for number in 0..count {
        let [a, b, c, d] = (0x4000_0000 + (number << 6)).to_be_bytes();
        writeln!(lines, "route add {a}.{b}.{c}.{d}/26 dev flood0")?;
    }
    host.ip(&lines)
}

/// Devices that come and go, as on a host with many containers. Dropping it stops it.
#[derive(Debug)]
pub struct LinkEvents {
    stop: Arc<AtomicBool>,
    pairs: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl LinkEvents {
    /// Makes and deletes a pair of devices `per_second` times a second, which the kernel reports with about ten events
    /// each: added, up, with an address, a route, down, deleted.
    pub fn start(host: &Host, per_second: u32) -> Result<Self> {
        ensure!(per_second > 0, "no events a second");
        let mut command = host.command("ip");
        command.args(["-force", "-batch", "-"]).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (stop, pairs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::Builder::new().name("link events".into()).spawn({
            let (stop, pairs) = (stop.clone(), pairs.clone());
            move || {
                // It is killed when this thread ends.
                let mut child = match command.spawn() {
                    Ok(child) => child,
                    Err(error) => panic!("{:#}", tool::cannot_start(&command, error)),
                };
                let mut ip = child.stdin.take().expect("stdin is piped");
                let start = Instant::now();
                let mut made = 0;
                while !stop.load(Ordering::Relaxed) {
                    let due = start + Duration::from_secs(1) * made / per_second;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let lines = "link add event0 type veth peer name event1\nlink set event0 up\n\
                                 addr add 192.168.231.1/24 dev event0\nlink set event1 up\nlink del event0\n";
                    if ip.write_all(lines.as_bytes()).is_err() {
                        break;
                    }
                    made += 1;
                    pairs.store(u64::from(made), Ordering::Relaxed);
                }
                drop(ip);
                drop(child.wait());
            }
        });
        Ok(Self { stop, pairs, thread: Some(thread.context("starting a thread")?) })
    }

    /// How many pairs of devices were made so far.
    pub fn pairs(&self) -> u64 {
        self.pairs.load(Ordering::Relaxed)
    }
}

impl Drop for LinkEvents {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

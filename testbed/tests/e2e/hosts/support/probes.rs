//! Whether packets pass between workloads, tried all the time with new flows: a host's firewall may let
//! flows pass that existed before its rules.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cframe_testbed::{Host, Site};

use crate::lab::MS;
use crate::traffic::{Background, echo};

const PORT: u16 = 7007;
const INTERVAL: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_millis(900);

/// UDP datagrams between all workloads in both directions and in each family that both have, each from a new port,
/// four times a second.
#[derive(Debug)]
pub(crate) struct Probes {
    results: Results,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _echoes: Vec<Background>,
}

/// One datagram that was answered or has timed out.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) pair: String,
    pub(crate) sent: Instant,
    pub(crate) passed: bool,
}

type Results = Arc<Mutex<Vec<Probe>>>;

impl Probes {
    pub(crate) fn start(sites: &[&Site]) -> Self {
        let mut echoes = Vec::new();
        for site in sites {
            for net in site.workload().addresses() {
                echoes.push(echo(site.workload(), SocketAddr::new(net.addr(), PORT)));
            }
        }
        let (results, stop) = (Results::default(), Arc::new(AtomicBool::new(false)));
        let threads = sites.iter().map(|from| {
            let mut targets = Vec::new();
            for to in sites.iter().filter(|to| to.name() != from.name()) {
                for address in to.workload().addresses().iter().map(|net| net.addr()) {
                    if from
                        .workload()
                        .addresses()
                        .iter()
                        .any(|net| same_family(net.addr(), address))
                    {
                        targets
                            .push((format!("{} → {} {address}", from.name(), to.name()), address));
                    }
                }
            }
            let host = from.workload().clone();
            let (results, stop) = (results.clone(), stop.clone());
            thread::spawn(move || run(&host, &targets, &results, &stop))
        });
        let threads = threads.collect();
        Self { results, stop, threads, _echoes: echoes }
    }

    /// All results so far, the oldest first for each pair.
    pub(crate) fn results(&self) -> Vec<Probe> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pairs between which no probe passed among those of the last second that are decided, and how many pairs
    /// there are.
    pub(crate) fn broken(&self) -> (Vec<String>, usize) {
        let now = Instant::now();
        let from = now.checked_sub(TIMEOUT + 1000 * MS).unwrap_or(now);
        pairs(&self.results(), from, now)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

/// The pairs of which at least half of the probes sent between two moments were lost, and the number of all pairs.
pub(crate) fn pairs(results: &[Probe], from: Instant, to: Instant) -> (Vec<String>, usize) {
    let mut pairs = std::collections::BTreeMap::<&str, (u32, u32)>::new();
    for probe in results.iter().rev().take_while(|probe| probe.sent + 2 * TIMEOUT >= from) {
        if probe.sent >= from && probe.sent <= to {
            let (sent, passed) = pairs.entry(&probe.pair).or_default();
            *sent += 1;
            *passed += u32::from(probe.passed);
        }
    }
    let broken = pairs.iter().filter(|(_, (sent, passed))| 2 * passed < *sent);
    (broken.map(|(pair, _)| (*pair).to_owned()).collect(), pairs.len())
}

fn run(host: &Host, targets: &[(String, IpAddr)], results: &Results, stop: &AtomicBool) {
    host.enter(|| {
        let mut waiting: Vec<(&str, UdpSocket, Instant)> = Vec::new();
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                next = Instant::now() + INTERVAL;
                for (pair, to) in targets {
                    waiting.push((pair, send(*to), Instant::now()));
                }
            }
            let mut decided = Vec::new();
            waiting.retain(|(pair, socket, sent)| {
                let passed = socket.recv(&mut [0; 8]).is_ok();
                let done = passed || sent.elapsed() >= TIMEOUT;
                if done {
                    decided.push(Probe { pair: (*pair).to_owned(), sent: *sent, passed });
                }
                !done
            });
            results.lock().unwrap_or_else(PoisonError::into_inner).extend(decided);
            thread::sleep(20 * MS);
        }
    })
    .unwrap();
}

/// Sends a datagram from a new port. An error, such as that there is no route, is a probe that is lost.
fn send(to: IpAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    drop(socket.connect((to, PORT)).and_then(|()| socket.send(b"probe")));
    socket
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

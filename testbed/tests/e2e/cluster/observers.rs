//! Threads that query edges and make edits during faults.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use cframe_testbed::deployment::Edge;
use cframe_testbed::wait_until;

use super::lab::{Cluster, version};
use crate::lab::MS;

/// Ends a thread when it is dropped.
pub(crate) type Stop = Sender<()>;

/// Sleeps between two steps of a thread; false if the thread must end.
fn sleep(stop: &Receiver<()>, delay: Duration) -> bool {
    stop.recv_timeout(delay) == Err(RecvTimeoutError::Timeout)
}

/// Checks until it is stopped that an edge's version never goes back. The result is the number of versions seen.
pub(crate) fn watch_version<'scope>(
    scope: &'scope Scope<'scope, '_>,
    edge: &'scope Edge,
) -> (Stop, ScopedJoinHandle<'scope, usize>) {
    let (stop, stopped) = channel();
    let thread = scope.spawn(move || {
        let (mut newest, mut count) = (None, 0);
        while sleep(&stopped, 50 * MS) {
            let Some(seen) = version(edge) else { continue };
            if let Some(before) = newest.replace(seen) {
                assert!(seen.at_least(&before), "{}: {before}, then {seen}", edge.name());
            }
            count += 1;
        }
        count
    });
    (stop, thread)
}

/// When writes through one controller were acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<Vec<Instant>>);

impl Acknowledged {
    fn times(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.times().len()
    }

    /// Waits for the first write that is acknowledged after `since`; returns the time between them.
    pub(crate) fn wait_after(&self, since: Instant, timeout: Duration) -> Duration {
        let mut first = None;
        let waited = wait_until(timeout, || {
            first = self.times().iter().find(|at| **at > since).map(|at| *at - since);
            first.is_some()
        });
        waited.expect("a write is acknowledged again");
        first.expect("waited for")
    }
}

/// Adds routes through a controller, one after another, until it is stopped.
pub(crate) fn keep_editing<'scope>(
    scope: &'scope Scope<'scope, '_>,
    cluster: &'scope Cluster,
    controller: usize,
    edge: &'scope Edge,
    acknowledged: &'scope Acknowledged,
) -> Stop {
    let (stop, stopped) = channel();
    scope.spawn(move || {
        let mut n = 0;
        while sleep(&stopped, 100 * MS) {
            let name = format!("r{controller}-{n}");
            let cidr = format!("10.{}.{}.0/24", 100 + 10 * controller + n / 250, n % 250);
            let route = ["route", "add", &name, "-n", "prod", "--cidr", &cidr];
            let options = ["--edge", edge.name(), "--timeout", "5s"];
            if cluster.ctl(controller, &[&route[..], &options[..]].concat()).code == 0 {
                acknowledged.times().push(Instant::now());
            }
            n += 1;
        }
    });
    stop
}

//! Who looks and edits all the time while something is broken.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use cframe_testbed::deployment::Edge;
use cframe_testbed::wait_until;

use super::world::{Cluster, version};
use crate::world::MS;

/// Ends whoever has the other side when it is dropped.
pub(crate) type Stop = Sender<()>;

fn paced(stop: &Receiver<()>, pause: Duration) -> bool {
    stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
}

/// Looks at an edge's version all the time, which never goes back; the number of looks that saw one.
pub(crate) fn watch_version<'scope>(
    scope: &'scope Scope<'scope, '_>,
    edge: &'scope Edge,
) -> (Stop, ScopedJoinHandle<'scope, usize>) {
    let (stop, stopped) = channel();
    let looking = scope.spawn(move || {
        let (mut newest, mut looks) = (None, 0);
        while paced(&stopped, 50 * MS) {
            let Some(seen) = version(edge) else { continue };
            if let Some(before) = newest.replace(seen) {
                assert!(seen.at_least(&before), "{}: {before}, then {seen}", edge.name());
            }
            looks += 1;
        }
        looks
    });
    (stop, looking)
}

/// When writes through one controller were acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<Vec<Instant>>);

impl Acknowledged {
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How long after `moment` the first write was acknowledged that ended after it.
    pub(crate) fn after(&self, moment: Instant, limit: Duration) -> Duration {
        let mut first = None;
        let waited = wait_until(limit, || {
            let acknowledged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            first = acknowledged.iter().find(|at| **at > moment).map(|at| *at - moment);
            first.is_some()
        });
        waited.expect("a write is acknowledged again");
        first.expect("waited for")
    }
}

/// Adds routes through a controller, one after the other.
pub(crate) fn edit<'scope>(
    scope: &'scope Scope<'scope, '_>,
    cluster: &'scope Cluster,
    controller: usize,
    edge: &'scope Edge,
    acknowledged: &'scope Acknowledged,
) -> Stop {
    let (stop, stopped) = channel();
    scope.spawn(move || {
        let mut n = 0;
        while paced(&stopped, 100 * MS) {
            let name = format!("r{controller}-{n}");
            let cidr = format!("10.{}.{}.0/24", 100 + 10 * controller + n / 250, n % 250);
            let route = ["route", "add", &name, "-n", "prod", "--cidr", &cidr];
            let at = ["--edge", edge.name(), "--timeout", "5s"];
            let made = cluster.ctl(controller, &[&route[..], &at[..]].concat());
            if made.code == 0 {
                let mut all = acknowledged.0.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(Instant::now());
            }
            n += 1;
        }
    });
    stop
}

//! Whether `cfctl status` is true, throughout a test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cframe_testbed::Site;
use cframe_testbed::deployment::Deployment;

use super::{MeshStatus, Probes, SHOWN, UNHEALTHY, probes};
use crate::lab::{MS, figure, wait_for};

const INTERVAL: Duration = Duration::from_millis(300);
/// The probes of this long before a status are compared with it.
const WINDOW: Duration = Duration::from_millis(1500);

/// Reads `cfctl status` all the time, and sends probes between all workloads.
///
/// The truth is: the status exits with 7 if probes between any two sites are lost, with 0 if all pass. It may be
/// wrong for [`SHOWN`] after a change.
#[derive(Debug)]
pub(crate) struct Verdict {
    probes: Probes,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    samples: Mutex<Vec<Sample>>,
    /// Faults that probes do not see, such as an edge that has not joined: 7 is right while they last.
    unseen: AtomicBool,
    stop: AtomicBool,
}

#[derive(Clone, Debug)]
struct Sample {
    /// When it was asked for.
    at: Instant,
    /// `None`: there was no answer, which is no verdict.
    code: Option<i32>,
    codes: Vec<String>,
    unseen: bool,
}

/// A time during which the status was wrong.
#[derive(Debug)]
struct Lie {
    length: Duration,
    text: String,
}

impl Verdict {
    pub(crate) fn watch(deployment: &Deployment, sites: &[&Site]) -> Self {
        let shared = Arc::new(Shared::default());
        let operator = deployment.operator();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    let at = Instant::now();
                    let status = MeshStatus::read(&operator).ok();
                    let errors = status.iter().flat_map(MeshStatus::problems);
                    let errors = errors.filter(|problem| problem["severity"] == "error");
                    let codes = errors.map(|problem| {
                        format!("{} {} {}", problem["code"], problem["subject"], problem["about"])
                    });
                    let unseen = shared.unseen.load(Ordering::Relaxed);
                    let codes = codes.collect();
                    shared.samples().push(Sample {
                        at,
                        code: status.map(|status| status.code),
                        codes,
                        unseen,
                    });
                    thread::sleep(INTERVAL);
                }
            }
        });
        Self { probes: Probes::start(sites), shared, thread: Some(thread) }
    }

    pub(crate) fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Whether from now on there is a fault that probes do not see.
    pub(crate) fn set_unseen(&self, unseen: bool) {
        self.shared.unseen.store(unseen, Ordering::Relaxed);
    }

    /// Whether probes pass between all sites.
    pub(crate) fn all_pass(&self) -> bool {
        let (broken, pairs) = self.probes.broken();
        pairs > 0 && broken.is_empty()
    }

    /// Waits until probes between any two sites are lost; false if they still pass after `within`.
    pub(crate) fn wait_broken(&self, within: Duration) -> bool {
        wait_for(within, || !self.probes.broken().0.is_empty()).is_ok()
    }

    /// Waits until the last status was asked for after now, and was right.
    pub(crate) fn wait_true(&self, what: &str, within: Duration) -> i32 {
        let (start, mut code) = (Instant::now(), None);
        let waited = wait_for(within, || {
            let Some(sample) = self.shared.samples().last().cloned() else { return false };
            code = sample.code.filter(|_| sample.at > start);
            let Some(unhealthy) = code.map(|code| code == UNHEALTHY) else { return false };
            unhealthy != self.all_pass() || unhealthy && sample.unseen
        });
        assert!(
            waited.is_ok(),
            "{what}: status {:?} while lost: {:?}",
            self.shared.samples().last(),
            self.probes.broken().0
        );
        code.unwrap()
    }

    /// Waits until probes pass between all sites and the status exits with 0.
    pub(crate) fn wait_well(&self, what: &str, within: Duration) -> Duration {
        let start = Instant::now();
        let waited = wait_for(within, || {
            let samples = self.shared.samples();
            let last = samples.last().filter(|sample| sample.at > start);
            let healthy = last.is_some_and(|sample| sample.code == Some(0));
            drop(samples);
            healthy && self.all_pass()
        });
        let Ok(took) = waited else {
            panic!(
                "{what}: not well after {within:?}: status {:#?}, lost: {:?}",
                self.shared.samples().last(),
                self.probes.broken().0
            );
        };
        took
    }

    /// Fails if the status was wrong for longer than [`SHOWN`] at any time so far.
    pub(crate) fn check(&self, what: &str) {
        let (samples, probes) = (self.shared.samples().clone(), self.probes.results());
        let lies = lies(&samples, &probes);
        let longest = lies.iter().map(|lie| lie.length).max().unwrap_or_default();
        figure(
            &format!("status wrong for at most, {what}"),
            format_args!("{longest:.1?} of {} answers (bound {SHOWN:?})", samples.len()),
        );
        let false_ones: Vec<&Lie> = lies.iter().filter(|lie| lie.length > SHOWN).collect();
        assert!(false_ones.is_empty(), "{what}: {false_ones:#?}");
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

impl Shared {
    fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times during which consecutive samples were wrong in the same way.
fn lies(samples: &[Sample], results: &[probes::Probe]) -> Vec<Lie> {
    let mut lies: Vec<Lie> = Vec::new();
    let mut since: Option<(bool, Instant)> = None;
    for sample in samples {
        let from = sample.at.checked_sub(WINDOW).unwrap_or(sample.at);
        let (broken, pairs) = probes::pairs(results, from, sample.at);
        let Some(code) = sample.code.filter(|_| pairs > 0) else { continue };
        let unhealthy = code == UNHEALTHY;
        let wrong = unhealthy == broken.is_empty() && !(unhealthy && sample.unseen);
        if !wrong {
            since = None;
            continue;
        }
        let start = match since {
            Some((kind, start)) if kind == unhealthy => start,
            _ => {
                lies.push(Lie { length: Duration::ZERO, text: String::new() });
                sample.at
            }
        };
        since = Some((unhealthy, start));
        let lie = lies.last_mut().expect("one was pushed");
        lie.length = sample.at - start + MS;
        lie.text = if unhealthy {
            format!("exits with 7, and all pairs pass: {:?}", sample.codes)
        } else {
            format!("exits with {code}, and no packets pass: {broken:?}")
        };
    }
    lies
}

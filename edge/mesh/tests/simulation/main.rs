//! Random runs of up to thirty edges in virtual time: a seed decides which faults and changes
//! happen.
//!
//! To run one seed and print what happens:
//!
//! ```text
//! CFRAME_SEED=17 cargo test -p cframe-mesh --test simulation
//! CFRAME_SEED=tls:17 cargo test -p cframe-mesh --test simulation
//! ```

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::{
    env,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

#[path = "../links/certificates.rs"]
mod certificates;
mod desired;
mod edge;
mod identities;
mod invariants;
mod null_crypto;
mod report;
mod run;
mod schedule;
mod setup;
mod simulation;
mod trace;
mod traffic;
mod wire;

use cframe_mesh::Load;
use identities::Identities;
use invariants::{Broken, Violation, within_bounds};
use report::Report;
use run::run;
use setup::{Protection, Sabotage, Setup};

/// The most edges of a run.
const MAX_EDGES: usize = 30;

#[test]
fn five_hundred_runs_without_cryptography_break_no_invariant() {
    let Some(report) = run_all(Protection::Null, 0..500) else { return };
    let wire = &report.wire;
    println!("{report:#?}");
    // Runs without these would prove nothing.
    assert!(report.large > 100, "{report:?}");
    for (what, count) in [
        ("delivered", report.delivered),
        ("merged", report.merged),
        ("fragmented", report.fragmented),
        ("forged", report.forged),
        ("refused", report.refused),
        ("denied", report.denied),
        ("lost", wire.lost),
        ("cut", wire.cut),
        ("too large", wire.too_large),
        ("late", wire.late),
        ("duplicated", wire.duplicated),
        ("corrupted", wire.corrupted),
        ("marked", wire.marked),
    ] {
        assert!(count > 100, "only {count} {what}");
    }
}

#[test]
fn thirty_runs_with_tls_break_no_invariant() {
    let Some(report) = run_all(Protection::Tls, 0..30) else { return };
    assert!(report.delivered > 1000 && report.wire.lost > 100, "{report:?}");
}

#[test]
fn a_run_can_be_repeated() {
    if replay().is_some() {
        return;
    }
    for seed in [3, 5, 18, 29] {
        let digests = [(); 2].map(|()| run_seed(Protection::Null, seed, None).unwrap().digest);
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
    let digest = |seed| run_seed(Protection::Null, seed, None).unwrap().digest;
    assert_ne!(digest(1), digest(2));
}

#[test]
fn every_sabotage_is_detected() {
    if replay().is_some() {
        return;
    }
    for (sabotage, broken) in [
        (Sabotage::Duplicate, Broken::Twice),
        (Sabotage::Reorder, Broken::Order),
        (Sabotage::Misdeliver, Broken::Destination),
        (Sabotage::Corrupt, Broken::Unknown),
        (Sabotage::BelieveClaims, Broken::Source),
        (Sabotage::IgnoreRevocations, Broken::Stranger),
        (Sabotage::IgnoreRevocations, Broken::Denied),
        (Sabotage::NeverRepair, Broken::Repair),
    ] {
        let found =
            (0..40).filter_map(|seed| run_seed(Protection::Null, seed, Some(sabotage)).err());
        let mut found = found.map(|violation| violation.broken);
        assert!(found.any(|found| found == broken), "{sabotage:?} never broke {broken:?}");
    }
}

#[test]
fn a_core_that_holds_too_much_is_detected() {
    let max = Load { links: 50, queued: 4 << 20, in_flight: 16 << 20, ..Load::default() };
    within_bounds(&max, 5).unwrap();
    for load in [
        Load { links: 100, ..max },
        Load { unfinished: 100, ..max },
        Load { queued: 5 << 20, ..max },
        Load { in_flight: 20 << 20, ..max },
        Load { events: 5000, ..max },
        Load { responses: 500, ..max },
    ] {
        assert_eq!(within_bounds(&load, 5).unwrap_err().broken, Broken::Bounds, "{load:?}");
    }
}

/// Runs all seeds on two threads, or the one of `CFRAME_SEED`; `None` if that is of another kind.
fn run_all(protection: Protection, seeds: Range<u64>) -> Option<Report> {
    if let Some((kind, seed)) = replay() {
        if kind == protection {
            run_seed(protection, seed, None).unwrap_or_else(|violation| {
                panic!("{}", describe(protection, seed, &violation));
            });
        }
        return None;
    }
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((Report::default(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let result = run_seed(protection, seed, None);
            let (report, broken) = &mut *total.lock().unwrap();
            match result {
                Ok(one) => *report += one,
                Err(violation) => broken.push(describe(protection, seed, &violation)),
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let (report, broken) = total.into_inner().unwrap();
    assert!(broken.is_empty(), "{} runs:\n{}", broken.len(), broken.join("\n"));
    Some(report)
}

fn run_seed(
    protection: Protection,
    seed: u64,
    sabotage: Option<Sabotage>,
) -> Result<Report, Violation> {
    let verbose = replay().is_some();
    run(&Setup { identities: identities(), protection, seed, sabotage, verbose })
}

/// The invariant that did not hold, and the command that repeats the run.
fn describe(protection: Protection, seed: u64, Violation { broken, what }: &Violation) -> String {
    let kind = if protection == Protection::Tls { "tls:" } else { "" };
    format!(
        "{broken:?}: {what}\n\
         repeat: CFRAME_SEED={kind}{seed} cargo test -p cframe-mesh --test simulation"
    )
}

/// The one run that `CFRAME_SEED` selects.
fn replay() -> Option<(Protection, u64)> {
    let wanted = env::var("CFRAME_SEED").ok()?;
    let (protection, seed) = match wanted.strip_prefix("tls:") {
        Some(seed) => (Protection::Tls, seed),
        None => (Protection::Null, wanted.as_str()),
    };
    let seed = seed.parse().expect("CFRAME_SEED is a number, or tls: and a number");
    Some((protection, seed))
}

fn identities() -> Arc<Identities> {
    static IDENTITIES: std::sync::LazyLock<Arc<Identities>> =
        std::sync::LazyLock::new(|| Arc::new(Identities::new(MAX_EDGES)));
    IDENTITIES.clone()
}

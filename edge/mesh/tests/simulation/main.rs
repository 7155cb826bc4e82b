//! Lives of some tens of edges in one thread and virtual time, with every mishap that a seed draws.
//!
//! One life alone, told aloud:
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
mod invariants;
mod life;
mod net;
mod null_crypto;
mod report;
mod trace;
mod traffic;
mod world;

use cframe_mesh::Load;
use edge::{Identities, Protection};
use invariants::{Broken, Violation, within_bounds};
use life::{Setup, live};
use report::Report;
use world::Sabotage;

/// As many as a life may have edges.
const EDGES: usize = 30;

#[test]
fn five_hundred_lives_without_cryptography_break_no_invariant() {
    let Some(report) = lives(Protection::Null, 0..500) else { return };
    let seen = &report.seen;
    println!("{report:#?}");
    // Lives that lack what they are for would show nothing.
    assert!(report.large > 100, "{report:?}");
    for (what, count) in [
        ("delivered", report.delivered),
        ("merged", report.merged),
        ("fragmented", report.fragmented),
        ("forged", report.forged),
        ("refused", report.refused),
        ("denied", report.denied),
        ("lost", seen.lost),
        ("cut", seen.cut),
        ("too large", seen.too_large),
        ("late", seen.late),
        ("duplicated", seen.duplicated),
        ("corrupted", seen.corrupted),
        ("marked", seen.marked),
    ] {
        assert!(count > 100, "only {count} {what}");
    }
}

#[test]
fn thirty_lives_with_tls_break_no_invariant() {
    let Some(report) = lives(Protection::Tls, 0..30) else { return };
    assert!(report.delivered > 1000 && report.seen.lost > 100, "{report:?}");
}

#[test]
fn a_life_can_be_lived_again() {
    if replay().is_some() {
        return;
    }
    for seed in [3, 5, 18, 29] {
        let digests = [(); 2].map(|()| life(Protection::Null, seed, None).unwrap().digest);
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
    let digest = |seed| life(Protection::Null, seed, None).unwrap().digest;
    assert_ne!(digest(1), digest(2));
}

#[test]
fn every_sabotage_is_found() {
    if replay().is_some() {
        return;
    }
    for (sabotage, broken) in [
        (Sabotage::Duplicate, Broken::Twice),
        (Sabotage::Overtake, Broken::Order),
        (Sabotage::Misdeliver, Broken::Destination),
        (Sabotage::Damage, Broken::Unknown),
        (Sabotage::BelieveClaims, Broken::Source),
        (Sabotage::DeafToRevocations, Broken::Stranger),
        (Sabotage::DeafToRevocations, Broken::Denied),
        (Sabotage::LastingCut, Broken::Repair),
    ] {
        let found = (0..40).filter_map(|seed| life(Protection::Null, seed, Some(sabotage)).err());
        let mut found = found.map(|violation| violation.broken);
        assert!(found.any(|found| found == broken), "{sabotage:?} never broke {broken:?}");
    }
}

#[test]
fn a_core_that_holds_too_much_is_found() {
    let most = Load { links: 50, queued: 4 << 20, in_flight: 16 << 20, ..Load::default() };
    within_bounds(&most, 5).unwrap();
    for load in [
        Load { links: 100, ..most },
        Load { unfinished: 100, ..most },
        Load { queued: 5 << 20, ..most },
        Load { in_flight: 20 << 20, ..most },
        Load { events: 5000, ..most },
        Load { responses: 500, ..most },
    ] {
        assert_eq!(within_bounds(&load, 5).unwrap_err().broken, Broken::Bounds, "{load:?}");
    }
}

/// Lives all of them, on two threads, or the one that is asked for; none if that is of another kind.
fn lives(protection: Protection, seeds: Range<u64>) -> Option<Report> {
    if let Some((kind, seed)) = replay() {
        if kind == protection {
            life(protection, seed, None).unwrap_or_else(|violation| {
                panic!("{}", again(protection, seed, &violation));
            });
        }
        return None;
    }
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((Report::default(), Vec::new()));
    let live = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let result = life(protection, seed, None);
            let (report, broken) = &mut *total.lock().unwrap();
            match result {
                Ok(one) => *report += one,
                Err(violation) => broken.push(again(protection, seed, &violation)),
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(live);
        scope.spawn(live);
    });
    let (report, broken) = total.into_inner().unwrap();
    assert!(broken.is_empty(), "{} lives:\n{}", broken.len(), broken.join("\n"));
    Some(report)
}

fn life(
    protection: Protection,
    seed: u64,
    sabotage: Option<Sabotage>,
) -> Result<Report, Violation> {
    let aloud = replay().is_some();
    live(&Setup { identities: identities(), protection, seed, sabotage, aloud })
}

/// What did not hold, and the command that shows it again.
fn again(protection: Protection, seed: u64, Violation { broken, what }: &Violation) -> String {
    let kind = if protection == Protection::Tls { "tls:" } else { "" };
    format!(
        "{broken:?}: {what}\n\
         again: CFRAME_SEED={kind}{seed} cargo test -p cframe-mesh --test simulation"
    )
}

/// The one life that the environment asks for.
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
        std::sync::LazyLock::new(|| Arc::new(Identities::new(EDGES)));
    IDENTITIES.clone()
}

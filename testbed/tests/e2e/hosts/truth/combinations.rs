//! Two faults at once: the status is true, whatever it names.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::Bed;
use super::faults::{FAULTS, Fault};
use crate::hosts::support::SHOWN;
use crate::lab::{figure, shared};

const SEED: u64 = 11;
const COMBINATIONS: usize = 25;

#[test]
fn in_combinations_of_two_faults_the_status_is_true() {
    let mut bed = Bed::start("combinations", shared());
    for (number, [first, second]) in combinations().into_iter().enumerate() {
        let name = format!("{} + {}", first.name, second.name);
        bed.verdict.set_unseen([first, second].iter().any(|fault| fault.is_only_reported()));
        first.apply(&mut bed);
        second.apply(&mut bed);
        let code = bed.verdict.wait_true(&name, SHOWN);
        // One ends: the other must still be reported.
        first.undo(&mut bed);
        let then = bed.verdict.wait_true(&name, SHOWN);
        second.undo(&mut bed);
        let took = bed.verdict.wait_well(&name, SHOWN);
        figure(
            &format!("combination {number}, {name}"),
            format_args!("exit {code}, then {then}, well after {took:.1?} (bound {SHOWN:?})"),
        );
        bed.clear.check(&name);
    }
    bed.verdict.check("in combinations of two");
}

/// Pairs of different faults.
fn combinations() -> Vec<[&'static Fault; 2]> {
    let mut random = StdRng::seed_from_u64(SEED);
    let pair = |_| {
        let mut two = FAULTS.sample(&mut random, 2);
        [two.next().unwrap(), two.next().unwrap()]
    };
    (0..COMBINATIONS).map(pair).collect()
}

//! Two faults at once: the status is true, whatever it names.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::faults::{self, Fault, Seen};
use super::{Bed, side_by_side};
use crate::hosts::support::SHOWN;
use crate::lab::figure;

const SEED: u64 = 11;
const COMBINATIONS: usize = 25;

#[test]
fn in_combinations_of_two_faults_the_status_is_true() {
    side_by_side("combinations", &combinations(), try_both);
}

fn try_both(bed: &mut Bed, [first, second]: &[&Fault; 2]) {
    let name = format!("{} + {}", first.name, second.name);
    let both = [first, second];
    bed.verdict.set_unseen(both.iter().any(|fault| fault.seen == Seen::OnlyReported));
    first.apply(bed);
    second.apply(bed);
    if both.iter().any(|fault| fault.seen == Seen::Lost) {
        assert!(bed.verdict.wait_broken(SHOWN), "{name}: all packets pass");
    }
    let code = bed.verdict.wait_true(&name, SHOWN);
    first.undo(bed);
    second.undo(bed);
    let took = bed.verdict.wait_well(&name, SHOWN);
    bed.verdict.set_unseen(false);
    figure(&name, format_args!("exit {code}, well again after {took:.1?} (bound {SHOWN:?})"));
    bed.clear.check(&name);
}

/// Pairs of different faults.
fn combinations() -> Vec<[&'static Fault; 2]> {
    let mut random = StdRng::seed_from_u64(SEED);
    let all = faults::all();
    let pair = |_| {
        let mut two = all.sample(&mut random, 2).copied();
        [two.next().unwrap(), two.next().unwrap()]
    };
    (0..COMBINATIONS).map(pair).collect()
}

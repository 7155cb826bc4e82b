//! Allocations per inner packet.

use crate::{
    counting::{self, Account, Trace, Traced},
    load::Load,
    pair::Pair,
    sites::by_site,
};

/// Turns until every buffer has its final size, and turns that are counted.
const WARM_UP: usize = 400;
const COUNTED: usize = 400;
/// Turns in which one of [`ONE_IN`] allocations is traced: a trace is slow.
const TRACED: usize = 100;
const ONE_IN: u64 = 5;
/// Locations with fewer allocations per packet are not printed.
const MIN_PER_PACKET: f64 = 0.000_5;

pub(crate) fn table() {
    println!("Allocations per inner packet in the steady state\n");
    for mut load in Load::all() {
        let mut pair = Pair::linked();
        run_turns(&mut pair, &mut load, WARM_UP);
        let before = [Account::Left, Account::Right].map(counting::tally);
        let packets = run_turns(&mut pair, &mut load, COUNTED);
        let after = [Account::Left, Account::Right].map(counting::tally);
        counting::trace(Trace::OneIn(ONE_IN));
        let traced_packets = run_turns(&mut pair, &mut load, TRACED);
        let traced = counting::trace(Trace::Off);
        println!("{}", load.name);
        for (index, (who, account)) in
            [("sender", Account::Left), ("receiver", Account::Right)].into_iter().enumerate()
        {
            let allocations = after[index].allocations - before[index].allocations;
            println!("  {who}: {:.3} per packet", allocations as f64 / packets as f64);
            list(traced.iter().filter(|one| one.account == account), traced_packets);
        }
        println!();
    }
}

/// For callgrind: sends `reads` reads, rounded up to whole turns.
pub(crate) fn send(mut load: Load, reads: usize) {
    let mut pair = Pair::linked();
    let count = reads.div_ceil(load.reads);
    let packets = run_turns(&mut pair, &mut load, count);
    println!("{packets} inner packets");
}

fn list<'a>(traced: impl Iterator<Item = &'a Traced>, packets: u64) {
    let mut sites = by_site(traced);
    sites.sort_by_key(|site| std::cmp::Reverse(site.allocations));
    for whose in [true, false] {
        let sum: u64 =
            sites.iter().filter(|s| s.is_ours() == whose).map(|site| site.allocations).sum();
        let per_packet = (sum * ONE_IN) as f64 / packets as f64;
        println!("    {}: {per_packet:.3}", if whose { "ours" } else { "others'" });
        for site in sites.iter().filter(|site| site.is_ours() == whose) {
            let per_packet = (site.allocations * ONE_IN) as f64 / packets as f64;
            if per_packet >= MIN_PER_PACKET {
                let bytes = site.bytes / site.allocations;
                println!("      {per_packet:.3} per packet: {} ({bytes} bytes)", site.name);
            }
        }
    }
}

/// Runs some turns; returns the number of inner packets received.
fn run_turns(pair: &mut Pair, load: &mut Load, turns: usize) -> u64 {
    let before = pair.received();
    let mut reads = vec![Vec::new(); load.reads];
    for _ in 0..turns {
        for read in &mut reads {
            read.clear();
            read.extend_from_slice(&load.read);
            load.advance();
        }
        let reads: Vec<_> = reads.iter().map(Vec::as_slice).collect();
        pair.turn(&reads);
    }
    let received = pair.received() - before;
    let sent = load.packets * (load.reads * turns) as u64;
    assert_eq!(received, sent, "packets were lost: {:?}", load.name);
    received
}

#![allow(clippy::unwrap_used, clippy::disallowed_methods, dead_code, unused)]
use std::time::{Duration, Instant};
use cframe_mesh::{Event, Reason};
use cframe_pki::bundle::{DenyEntry, DenyList};
mod world;
use world::{LATENCY, World, addr, ping, name_of};
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn revoke(world: &mut World, at: usize, whom: usize) {
    let revoked = world.nodes[whom].identity();
    let mut deny = DenyList::default();
    deny.insert(DenyEntry { id: revoked.id.clone(), serial: revoked.serial, spki: revoked.spki, expires: revoked.not_after });
    let trust = world.nodes[at].trust.clone();
    trust.replace(trust.bundle(), deny).unwrap();
    let now = world.now;
    world.mesh(at).recheck(now, &mut |peer| trust.denial(peer).is_ok());
}

#[test]
fn recheck_bypass() {
    // victim = 0 listens, attacker = 1 dials. Also the other way round.
    let mut bad = vec![];
    for pad in 0..55usize { for who_listens in [0usize, 1] { for k in 1..6 {
        let mut world = World::new();
        world.add("a", "prod", Duration::from_secs(86_400));
        let name = format!("b{}", "x".repeat(pad));
        world.add(&name, "prod", Duration::from_secs(86_400));
        world.hold = Some((world.nodes[1].address, k));
        world.acquaint(0, &[who_listens]);
        world.acquaint(1, &[who_listens]);
        world.run(500 * MS);
        if world.links_up(0) != 0 { continue; }
        revoke(&mut world, 0, 1);
        world.release();
        world.run(3 * SECOND);
        if world.links_up(0) == 1 { bad.push((pad, who_listens, k)); }
    }}}
    assert!(bad.is_empty(), "revoked peer is up: {bad:?}");
}

#[test]
fn garbage_initials_shut_out_new_peers() {
    let mut world = World::mesh_of(3, &[0, 1, 2]);
    world.capture = true;
    world.kill(2);
    world.until(SECOND, |w| w.links_up(0) == 1).unwrap();
    world.capture = false;
    let initial = world.captured.iter().find(|d| d[0] & 0xf0 == 0xc0 && d.len() >= 1200).unwrap().clone();
    let mut n = 0u32;
    world.run(SECOND);
    let mut back = None;
    let begun = Instant::now();
    for ms in 0..20_000u32 {
        for _ in 0..3 { // 3,000 a second
            n += 1;
            let mut forged = initial.clone();
            forged[6..10].copy_from_slice(&n.to_be_bytes());
            let [_, b, c, d] = n.to_be_bytes();
            for to in 0..2 { world.inject(to, &format!("7.{b}.{c}.{d}:4433"), forged.clone()); }
        }
        if ms == 3_000 { world.restart(2, &[0, 1, 2]); for i in 0..2 { } }
        world.run(MS);
        if ms > 3000 && world.links_up(2) == 2 { back = Some(ms - 3000); break; }
    }
    println!("wall {:?}", begun.elapsed());
    assert!(back.is_some_and(|b| b < 5000), "restarted edge back after {back:?} ms, dropped rate {}", world.mesh(0).counters().dropped_for(Reason::HandshakeRate));
}

#[test]
fn one_way_full_packets_shut_the_receiver() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(3 * SECOND);
    let largest = world.mesh(0).links().next().unwrap().largest_inner;
    let mut total = 0u64;
    for round in 0..1200 {
        for _ in 0..600 { world.send(0, 1, largest); total += 1; }
        world.run(MS * 5);
        world.nodes[1].delivered.clear();
    }
    // 1's controller now; does it still send?
    let before = world.nodes[0].delivered.len();
    for _ in 0..100 {
        world.send(1, 0, 100);
        for _ in 0..600 { world.send(0, 1, largest); }
        world.run(MS * 5);
    }
    let got = world.nodes[0].delivered.len() - before;
    assert!(got > 90, "of 100 sent back during a one-way flow, {got} arrived");
}

#[test]
fn nat_rebinding_at_the_cap() {
    let mut world = World::mesh_of(2, &[1]); // 0 dials, 1 accepts
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(3 * SECOND);
    // NAT forgets: 0's packets come from another port now; 0 isn't told.
    world.nodes[0].address.set_port(4000);
    let begun = world.now;
    let mut first = None;
    for round in 0..2000 {
        for _ in 0..200 { world.send(1, 0, 1400); }
        let n = world.nodes[0].delivered.len();
        world.run(MS * 10);
        if world.nodes[0].delivered.len() > n { first = Some(world.now - begun); break; }
    }
    assert!(first.is_some_and(|t| t < Duration::from_millis(3500)), "{first:?} {:?}", world.nodes[1].events);
}
#[test]
fn nat_rebinding_below_the_cap() {
    let mut world = World::mesh_of(2, &[1]); // 0 dials, 1 accepts
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(3 * SECOND);
    world.nodes[0].address.set_port(4000);
    let begun = world.now;
    let mut first = None;
    for round in 0..2000 {
        for _ in 0..2 { world.send(1, 0, 1400); }
        let n = world.nodes[0].delivered.len();
        world.run(MS * 10);
        if world.nodes[0].delivered.len() > n { first = Some(world.now - begun); break; }
    }
    assert!(first.is_some_and(|t| t < Duration::from_millis(3500)), "{first:?} {:?}", world.nodes[1].events);
}

#[test]
fn jumbo_batches_fit_udp() {
    world::UNDERLAY.store(9001, std::sync::atomic::Ordering::Relaxed);
    let mut world = World::mesh_of(2, &[0, 1]);
    world::UNDERLAY.store(1500, std::sync::atomic::Ordering::Relaxed);
    world.mtu = 8973;
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(10 * SECOND);
    println!("{:?}", world.mesh(0).links().next().unwrap().path_mtu);
    for _ in 0..100 { world.send(0, 1, 1400); }
    world.run(SECOND);
    assert!(world.biggest_batch <= 65_507, "{}", world.biggest_batch);
}

#[test]
fn dials_per_link_on_a_long_path() {
    let mut out = vec![];
    for latency in [10u64, 75, 150, 300] {
        let mut world = World::mesh_of(2, &[0, 1]);
        world.latency = MS * latency as u32;
        world.run(20 * SECOND);
        let ups: Vec<usize> = (0..2).map(|e| world.nodes[e].events.iter().filter(|x| matches!(x, Event::LinkUp{..})).count()).collect();
        let downs: Vec<usize> = (0..2).map(|e| world.nodes[e].events.iter().filter(|x| matches!(x, Event::LinkDown{..})).count()).collect();
        out.push((latency, ups, downs));
    }
    println!("{out:?}");
    assert!(out.iter().all(|(_, ups, _)| ups.iter().all(|u| *u <= 2)), "{out:?}");
}

#[test]
fn both_ways_at_the_cap() {
    let mut one = 0; let mut both = 0;
    for two in [false, true] {
        let mut world = World::mesh_of(2, &[0, 1]);
        world.latency = MS * 100;
        world.run(5 * SECOND);
        world.nodes.iter_mut().for_each(|n| n.delivered.clear());
        let mut got = 0usize;
        for _ in 0..400 { // 4 s
            for _ in 0..1500 { world.send(0, 1, 1400); if two { world.send(1, 0, 1400); } } // 1.7 Gbit/s
            world.run(MS * 10);
            got += world.nodes[1].delivered.len();
            world.nodes.iter_mut().for_each(|n| n.delivered.clear());
        }
        if two { both = got } else { one = got }
    }
    assert!(both * 10 > one * 8, "0→1 packets delivered in 4 s: alone {one}, with the other direction {both}");
}

#[test]
fn twins_flap() {
    // two live processes with the same identity
    let mut world = World::mesh_of(2, &[0, 1]);
    world.run(SECOND);
    let ups = |w: &World, e: usize| w.nodes[e].events.iter().filter(|x| matches!(x, Event::LinkUp{..})).count();
    world.run(SECOND);
    println!("{}", ups(&world, 0));
}

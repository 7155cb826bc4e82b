//! Links when a root leaves the trust bundle.

use std::time::Duration;

use cframe_mesh::Event;
use cframe_pki::{bundle::DenyList, verifier::Refusal};

use crate::{
    SECOND,
    certificates::Authority,
    world::{World, name_of},
};

/// Every edge trusts a new root too, and those of `renewed` have a certificate below it, though their links
/// were made with the old one.
fn rotated(count: usize, listening: &[usize], renewed: &[usize]) -> World {
    let mut world = World::mesh_of(count, listening);
    assert!(
        world.until(SECOND, |world| (0..count).all(|i| world.links_up(i) == count - 1)).is_some()
    );
    let mut both = world.authority.bundle();
    world.authority = Authority::new();
    both.roots.extend(world.authority.bundle().roots);
    for index in 0..count {
        world.nodes[index].trust.replace(both.clone(), DenyList::default()).unwrap();
        if renewed.contains(&index) {
            let lifetime = Duration::from_secs(86_400);
            let (_, credentials) = world.authority.issue("prod", &name_of(index), lifetime);
            world.nodes[index].credentials.replace(credentials).unwrap();
        }
    }
    world
}

/// Edge `at` learns that the old root is gone.
fn drop_old_root(world: &mut World, at: usize) {
    let bundle = world.authority.bundle();
    let trust = world.nodes[at].trust.clone();
    trust.replace(bundle, DenyList::default()).unwrap();
    let now = world.now;
    world
        .mesh(at)
        .recheck(now, &mut |peer| matches!(trust.denial(peer), Ok(()) | Err(Refusal::RootRemoved)));
    world.mesh(at).replace_links(now, &mut |peer| trust.denial(peer).is_err());
}

#[test]
fn links_of_edges_that_have_renewed_are_made_anew_before_the_old_ones_end() {
    for listening in [&[0, 1, 2][..], &[0][..], &[0, 1][..]] {
        let connected = |a: usize, b: usize| listening.contains(&a) || listening.contains(&b);
        let count = if listening.len() == 1 { 2 } else { 3 };
        let mut world = rotated(count, listening, &[0, 1, 2]);
        world.nodes.iter_mut().for_each(|node| node.events.clear());
        let (mut sent, mut delivered) = (0, 0);
        world.nodes.iter_mut().for_each(|node| node.delivered.clear());
        for step in 0..1000 {
            if step == 100 {
                // Not all at the same moment.
                drop_old_root(&mut world, 0);
            }
            if step == 130 {
                (1..count).for_each(|at| drop_old_root(&mut world, at));
            }
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from && connected(from, *to)) {
                    world.send(from, to, 100);
                    sent += 1;
                }
            }
            world.run(Duration::from_millis(10));
        }
        world.run(SECOND);
        for node in &world.nodes {
            delivered += node.delivered.len();
            let up =
                node.events.iter().filter(|event| matches!(event, Event::LinkUp { .. })).count();
            assert!(up >= count - 1, "made anew: {:?}", node.events);
            let down = |event: &&Event| matches!(event, Event::LinkDown { .. });
            assert_eq!(node.events.iter().find(down), None);
        }
        assert_eq!(delivered, sent, "{listening:?}");
    }
}

#[test]
fn an_edge_that_has_nothing_better_is_cut_off_within_seconds_and_stays_out() {
    let mut world = rotated(3, &[0, 1, 2], &[0, 1]);
    (0..2).for_each(|at| drop_old_root(&mut world, at));
    let gone = world.until(6 * SECOND, |world| world.links_up(0) == 1 && world.links_up(1) == 1);
    assert!(gone.is_some_and(|after| after <= 5 * SECOND + Duration::from_millis(50)), "{gone:?}");
    assert_eq!(
        world.until(60 * SECOND, |world| world.links_up(0) > 1 || world.links_up(1) > 1),
        None
    );
    assert!(world.time_to_traffic(0, 1, SECOND).is_some(), "the others have theirs");
}

//! Links when a root leaves the trust bundle.

use std::time::Duration;

use cframe_mesh::Event;
use cframe_pki::{bundle::DenyList, verifier::Refusal};

use crate::{
    SECOND,
    certificates::Authority,
    network::{LinkNetwork, name_of},
};

/// Edges that trust a second, new root. Those in `renewed` have a certificate below it, but their
/// links were made with the old one.
fn rotated(count: usize, listening: &[usize], renewed: &[usize]) -> LinkNetwork {
    let mut net = LinkNetwork::of(count, listening);
    assert!(
        net.run_until(SECOND, |net| (0..count).all(|i| net.links_up(i) == count - 1)).is_some()
    );
    let mut both = net.authority.bundle();
    net.authority = Authority::new();
    both.roots.extend(net.authority.bundle().roots);
    for index in 0..count {
        net.edges[index].trust.replace(both.clone(), DenyList::default()).unwrap();
        if renewed.contains(&index) {
            let lifetime = Duration::from_secs(86_400);
            let (_, credentials) = net.authority.issue("prod", &name_of(index), lifetime);
            net.edges[index].credentials.replace(credentials).unwrap();
        }
    }
    net
}

/// Removes the old root from the trust of edge `at`.
fn drop_old_root(net: &mut LinkNetwork, at: usize) {
    let bundle = net.authority.bundle();
    let trust = net.edges[at].trust.clone();
    trust.replace(bundle, DenyList::default()).unwrap();
    let now = net.now;
    net.mesh(at)
        .recheck(now, &mut |peer| matches!(trust.denial(peer), Ok(()) | Err(Refusal::RootRemoved)));
    net.mesh(at).replace_links(now, &mut |peer| trust.denial(peer).is_err());
}

#[test]
fn links_of_edges_with_a_renewed_certificate_are_replaced_before_they_end() {
    for listening in [&[0, 1, 2][..], &[0][..], &[0, 1][..]] {
        let connected = |a: usize, b: usize| listening.contains(&a) || listening.contains(&b);
        let count = if listening.len() == 1 { 2 } else { 3 };
        let mut net = rotated(count, listening, &[0, 1, 2]);
        net.edges.iter_mut().for_each(|edge| edge.events.clear());
        let (mut sent, mut delivered) = (0, 0);
        net.edges.iter_mut().for_each(|edge| edge.delivered.clear());
        for step in 0..1000 {
            if step == 100 {
                // Not all edges at the same moment.
                drop_old_root(&mut net, 0);
            }
            if step == 130 {
                (1..count).for_each(|at| drop_old_root(&mut net, at));
            }
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from && connected(from, *to)) {
                    net.send(from, to, 100);
                    sent += 1;
                }
            }
            net.run_for(Duration::from_millis(10));
        }
        net.run_for(SECOND);
        for edge in &net.edges {
            delivered += edge.delivered.len();
            let up =
                edge.events.iter().filter(|event| matches!(event, Event::LinkUp { .. })).count();
            assert!(up >= count - 1, "replaced: {:?}", edge.events);
            let down = |event: &&Event| matches!(event, Event::LinkDown { .. });
            assert_eq!(edge.events.iter().find(down), None);
        }
        assert_eq!(delivered, sent, "{listening:?}");
    }
}

#[test]
fn an_edge_without_a_renewed_certificate_loses_its_links_within_seconds_for_good() {
    let mut net = rotated(3, &[0, 1, 2], &[0, 1]);
    (0..2).for_each(|at| drop_old_root(&mut net, at));
    let lost = net.run_until(6 * SECOND, |net| net.links_up(0) == 1 && net.links_up(1) == 1);
    assert!(lost.is_some_and(|after| after <= 5 * SECOND + Duration::from_millis(50)), "{lost:?}");
    assert_eq!(net.run_until(60 * SECOND, |net| net.links_up(0) > 1 || net.links_up(1) > 1), None);
    assert!(net.time_to_traffic(0, 1, SECOND).is_some(), "the others keep their link");
}

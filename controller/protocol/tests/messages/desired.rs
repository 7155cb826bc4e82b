//! Deltas, updates and their assembly.

use std::sync::Arc;

use cframe_protocol::{
    desired::{Assembler, Delta, MAX_EDGES, MAX_PREFIXES, Refused, updates},
    frame::{Frame, MAX_FRAME, encode},
    v1::*,
};
use proptest::prelude::*;

use crate::strategies as any;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_difference_applied_makes_the_other_state(from in any::desired(), to in any::desired()) {
        let mut state = from.clone();
        from.diff(&to).into_iter().for_each(|change| state.apply(change));
        state.version = to.version;
        prop_assert_eq!(state, to);
    }

    #[test]
    fn a_state_has_no_difference_from_itself(state in any::desired()) {
        prop_assert_eq!(state.diff(&state), []);
    }

    #[test]
    fn applying_a_change_twice_is_applying_it_once(
        mut state in any::desired(),
        change in any::change(),
    ) {
        state.apply(change.clone());
        let once = state.clone();
        state.apply(change);
        prop_assert_eq!(state, once);
    }

    #[test]
    fn a_snapshot_and_a_delta_arrive_whole(
        mut first in any::desired(),
        mut second in any::desired(),
    ) {
        first.version = version(1, 1, 1);
        second.version = version(1, 1, 2);
        let mut assembler = Assembler::default();
        let snapshot = Desired::default().diff(&first);
        let arrived = send(&mut assembler, updates(None, first.version, snapshot)).unwrap();
        prop_assert_eq!(&*arrived, &first);
        let delta = first.diff(&second);
        let arrived =
            send(&mut assembler, updates(Some(first.version), second.version, delta)).unwrap();
        prop_assert_eq!(&*arrived, &second);
    }

    #[test]
    fn the_changes_of_a_delta_are_exactly_the_difference_of_its_ends(
        first in any::desired(),
        changes in proptest::collection::vec(any::change(), 0..40),
        towards in any::desired(),
    ) {
        // Anything, some of it twice or undone again, and then the shortest way to another state.
        let mut last = first.clone();
        changes.iter().cloned().for_each(|change| last.apply(change));
        let mut delta = changes;
        let rest = last.diff(&towards);
        rest.iter().cloned().for_each(|change| last.apply(change));
        delta.extend(rest);
        prop_assert_eq!(first.diff_within(&last, &delta), first.diff(&last));
    }

    #[test]
    fn a_delta_comes_with_its_changes_and_a_snapshot_with_none(
        mut first in any::desired(),
        mut second in any::desired(),
    ) {
        first.version = version(1, 1, 1);
        second.version = version(1, 1, 2);
        for prefixes in [&mut first.prefixes, &mut second.prefixes] {
            *prefixes = prefixes.iter().map(|(net, owner)| (net.trunc(), owner.clone())).collect();
        }
        let mut assembler = Assembler::new(Some(Arc::new(first.clone())));
        let changes = first.diff(&second);
        let mut delta = None;
        for piece in updates(Some(first.version), second.version, changes.clone()) {
            delta = assembler.push(piece).unwrap().and_then(|assembled| assembled.delta);
        }
        prop_assert_eq!(delta, Some(Delta { from: first.version, changes }));
        let mut assembler = Assembler::default();
        let mut delta = None;
        for piece in updates(None, second.version, Desired::default().diff(&second)) {
            delta = assembler.push(piece).unwrap().and_then(|assembled| assembled.delta);
        }
        prop_assert_eq!(delta, None);
    }

    #[test]
    fn pieces_hold_all_changes_in_order_and_fit(
        changes in proptest::collection::vec(any::change(), 0..600),
    ) {
        let pieces: Vec<Update> = updates(None, version(1, 0, 0), changes.clone()).collect();
        for piece in &pieces {
            prop_assert_eq!(&through_the_wire(piece), piece);
        }
        prop_assert!(pieces.iter().rev().skip(1).all(|piece| !piece.last));
        prop_assert!(pieces.last().unwrap().last);
        let all: Vec<Change> = pieces.into_iter().flat_map(|piece| piece.changes).collect();
        prop_assert_eq!(all, changes);
    }
}

#[test]
fn a_hundred_thousand_routes_fit_frames_and_one_edit_is_one_small_frame() {
    let mut state = Desired { version: version(1, 1, 1), ..Desired::default() };
    for n in 0..100_000u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + (n << 6));
        let net = ipnet::Ipv4Net::new(ip, 26).unwrap().into();
        let owner = format!("edge-{}", n % 100).parse().unwrap();
        state.prefixes.insert(net, owner);
    }
    let mut assembler = Assembler::default();
    let snapshot: Vec<Update> =
        updates(None, state.version, Desired::default().diff(&state)).collect();
    let bytes: usize = snapshot.iter().map(|piece| encode(piece).unwrap().len()).sum();
    assert!(snapshot.iter().all(|piece| encode(piece).unwrap().len() <= 4 + MAX_FRAME));
    assert!(bytes < 2_000_000, "{bytes}");
    assert_eq!(*send(&mut assembler, snapshot).unwrap(), state);

    let mut next = state.clone();
    next.version.namespace += 1;
    next.prefixes.insert("192.168.0.0/24".parse().unwrap(), "edge-1".parse().unwrap());
    let edit: Vec<Update> = updates(Some(state.version), next.version, state.diff(&next)).collect();
    assert_eq!(edit.len(), 1);
    assert!(encode(&edit[0]).unwrap().len() < 64);
    assert_eq!(*send(&mut assembler, edit).unwrap(), next);
}

#[test]
fn the_heaviest_pieces_are_within_the_budget_of_their_reader() {
    let long = |n: usize| format!("{n:0>63}").parse::<cframe_pki::identity::Label>().unwrap();
    let host = format!("{}.{}.{}.com:58423", "a".repeat(63), "b".repeat(63), "c".repeat(63));
    let endpoint: Endpoint = host.parse().unwrap();
    let edges = (0..500).map(|n| Change::Edge {
        name: long(n),
        state: EdgeState { endpoints: vec![endpoint.clone(); 1 + n % 64], joined: true },
    });
    let short: Endpoint = "a:1".parse().unwrap();
    let many = (0..500).map(|n| Change::Edge {
        name: long(n),
        state: EdgeState { endpoints: vec![short.clone(); 64], joined: true },
    });
    for piece in updates(None, version(1, 0, 0), edges.chain(many)) {
        assert_eq!(through_the_wire(&piece), piece);
    }
}

#[test]
fn no_changes_still_make_an_update() {
    let mut assembler = with(version(1, 1, 1));
    let pieces: Vec<Update> = updates(Some(version(1, 1, 1)), version(1, 1, 5), []).collect();
    assert_eq!(pieces.len(), 1);
    assert_eq!(send(&mut assembler, pieces).unwrap().version, version(1, 1, 5));
}

#[test]
fn nothing_is_applied_before_the_last_piece() {
    let mut assembler = with(version(1, 1, 1));
    let piece = update(Some(version(1, 1, 1)), version(1, 1, 2), vec![prefix("10.0.0.0/8")], false);
    assert_eq!(assembler.push(piece), Ok(None));
    assert_eq!(assembler.version(), Some(version(1, 1, 1)));
    assert!(assembler.current().unwrap().prefixes.is_empty());
    // The session is lost here. The next one starts from the whole state.
    assembler.reset();
    let piece = update(Some(version(1, 1, 1)), version(1, 1, 3), vec![], true);
    let state = assembler.push(piece).unwrap().unwrap().state;
    assert!(state.prefixes.is_empty());
}

#[test]
fn an_update_for_another_state_is_refused() {
    let mut assembler = with(version(1, 1, 1));
    let from = Some(version(1, 1, 7));
    let refused = assembler.push(update(from, version(1, 1, 8), vec![], true));
    assert_eq!(refused, Err(Refused::From { from, have: Some(version(1, 1, 1)) }));
    let mut empty = Assembler::default();
    let refused = empty.push(update(from, version(1, 1, 8), vec![], true));
    assert_eq!(refused, Err(Refused::From { from, have: None }));
}

#[test]
fn no_update_leads_back_within_an_epoch_or_to_an_earlier_one() {
    for to in [version(5, 1, 2), version(5, 2, 1), version(4, 9, 9)] {
        for from in [None, Some(version(5, 2, 2))] {
            let mut assembler = with(version(5, 2, 2));
            let refused = assembler.push(update(from, to, vec![], true));
            assert_eq!(refused, Err(Refused::Older { have: version(5, 2, 2), to }));
            assert_eq!(assembler.version(), Some(version(5, 2, 2)));
        }
    }
}

#[test]
fn a_snapshot_of_a_later_epoch_replaces_everything() {
    let mut assembler = with(version(5, 2, 2));
    let first = update(None, version(6, 0, 1), vec![prefix("10.0.0.0/8")], true);
    let state = assembler.push(first).unwrap().unwrap().state;
    assert_eq!(state.prefixes.len(), 1);
    assert_eq!(assembler.version(), Some(version(6, 0, 1)));
}

#[test]
fn an_update_that_starts_within_another_is_refused() {
    let mut assembler = with(version(1, 1, 1));
    let from = Some(version(1, 1, 1));
    assembler.push(update(from, version(1, 1, 2), vec![], false)).unwrap();
    let refused = assembler.push(update(from, version(1, 1, 3), vec![], true));
    let (pending, to) = (version(1, 1, 2), version(1, 1, 3));
    assert_eq!(refused, Err(Refused::Interleaved { pending, to }));
}

#[test]
fn host_bits_are_refused() {
    let mut assembler = Assembler::default();
    let refused = assembler.push(update(None, version(1, 1, 1), vec![prefix("10.0.0.1/8")], true));
    assert_eq!(refused, Err(Refused::HostBits("10.0.0.1/8".parse().unwrap())));
}

#[test]
fn a_state_grows_to_its_limits_and_no_further() {
    let edge = |n: usize| Change::Edge {
        name: format!("e{n}").parse().unwrap(),
        state: EdgeState::default(),
    };
    let mut assembler = Assembler::default();
    let changes = (0..MAX_EDGES).map(edge).collect();
    assembler.push(update(None, version(1, 1, 1), changes, true)).unwrap();
    let more = update(Some(version(1, 1, 1)), version(1, 1, 2), vec![edge(MAX_EDGES)], true);
    let refused = assembler.push(more);
    assert_eq!(refused, Err(Refused::TooMuch { what: "edges", max: MAX_EDGES }));
    assert_eq!(assembler.version(), Some(version(1, 1, 1)), "the previous state stays");

    let mut assembler = Assembler::default();
    let mut next = 0..;
    let refused = loop {
        let changes = next.by_ref().take(4096).map(|n: u32| Change::Prefix {
            net: ipnet::Ipv4Net::new((0x0a00_0000 + n).into(), 32).unwrap().into(),
            owner: "idc".parse().unwrap(),
        });
        let piece = update(None, version(1, 1, 1), changes.collect(), false);
        if let Err(refused) = assembler.push(piece) {
            break refused;
        }
    };
    assert_eq!(refused, Refused::TooMuch { what: "prefixes", max: MAX_PREFIXES });
}

fn version(epoch: u64, mesh: u64, namespace: u64) -> Version {
    Version { epoch, mesh, namespace }
}

fn with(version: Version) -> Assembler {
    Assembler::new(Some(Arc::new(Desired { version, ..Desired::default() })))
}

fn update(from: Option<Version>, to: Version, changes: Vec<Change>, last: bool) -> Update {
    Update { from, to, changes, last }
}

fn prefix(net: &str) -> Change {
    Change::Prefix { net: net.parse().unwrap(), owner: "idc".parse().unwrap() }
}

/// Pushes all pieces; only the last one completes a state.
fn send(
    assembler: &mut Assembler,
    pieces: impl IntoIterator<Item = Update>,
) -> Option<Arc<Desired>> {
    let mut state = None;
    for piece in pieces {
        assert!(state.is_none());
        state = assembler.push(through_the_wire(&piece)).unwrap();
    }
    state.map(|assembled| assembled.state)
}

fn through_the_wire(piece: &Update) -> Update {
    let bytes = encode(piece).unwrap();
    assert!(bytes.len() <= 4 + MAX_FRAME);
    Frame { kind: 2, body: bytes.slice(6..) }.decode().unwrap()
}

//! Splitting and merging of long answers.

use cframe_protocol::{
    frame::{Frame, MAX_FRAME, encode},
    v1::*,
};
use proptest::prelude::*;

use crate::{samples, strategies as any};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn splitting_and_merging_gives_the_same_reply(reply in any::reply(150)) {
        prop_assert_eq!(there_and_back(reply.clone()), vec![reply]);
    }
}

#[test]
fn an_edge_with_a_thousand_links_comes_back_as_one_row() {
    let mut rows = samples::edge_rows();
    let link = rows[0].links[0].clone();
    rows[1].links = (0..1000)
        .map(|n| LinkReport { peer: format!("{n:0>63}").parse().unwrap(), ..link.clone() })
        .collect();
    // Consecutive rows of one edge would be merged.
    rows[0].name = "a".parse().unwrap();
    rows[2].name = "c".parse().unwrap();
    rows[3].name = "d".parse().unwrap();
    let reply = Reply::Edges(rows);
    assert_eq!(there_and_back(reply.clone()), [reply]);
}

#[test]
fn a_session_with_a_thousand_links_comes_back_as_one_row() {
    let mut rows = samples::session_rows();
    let link = rows[0].links[0].clone();
    rows[0].links = (0..1000)
        .map(|n| LinkReport { peer: format!("{n:0>63}").parse().unwrap(), ..link.clone() })
        .collect();
    let reply = Reply::Sessions(rows);
    assert_eq!(there_and_back(reply.clone()), [reply]);
}

#[test]
fn the_maximum_number_of_names_fits_a_frame() {
    let names = (0..Behind::MAX_NAMES).map(|n| format!("{n:0>63}").parse().unwrap()).collect();
    let reply = Reply::Behind(Behind { total: 9, behind: 9, names });
    assert_eq!(through_the_wire(reply.clone()), reply);
}

#[test]
fn a_status_of_five_thousand_namespaces_and_as_many_problems_fits_frames() {
    let mut status = samples::status();
    let namespace = status.namespaces[0].clone();
    status.namespaces = (0..5000)
        .map(|n| NamespaceStatus {
            name: format!("{n:0>63}").parse().unwrap(),
            ..namespace.clone()
        })
        .collect();
    let group = status.problems[0].clone();
    status.problems =
        (0..5000).map(|n| ProblemGroup { title: format!("{n:0>200}"), ..group.clone() }).collect();
    let reply = Reply::Status(status);
    assert_eq!(there_and_back(reply.clone()), [reply]);
}

#[test]
fn a_backup_is_split_into_chunks() {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let chunks = Reply::Chunk(bytes.clone()).split();
    assert_eq!(chunks.len(), 4);
    let back = chunks.into_iter().map(through_the_wire).flat_map(|chunk| match chunk {
        Reply::Chunk(bytes) => bytes,
        other => panic!("{other:?}"),
    });
    assert!(back.eq(bytes));
}

#[test]
fn an_empty_list_is_one_empty_piece() {
    assert_eq!(Reply::Routes(Vec::new()).split(), [Reply::Routes(Vec::new())]);
}

fn there_and_back(reply: Reply) -> Vec<Reply> {
    let mut replies: Vec<Reply> = Vec::new();
    for piece in reply.split().into_iter().map(through_the_wire) {
        Reply::add_piece(&mut replies, piece);
    }
    replies
}

fn through_the_wire(reply: Reply) -> Reply {
    let message = AdminReply { result: Ok(reply) };
    let bytes = encode(&message).unwrap();
    assert!(bytes.len() <= 4 + MAX_FRAME);
    let back: AdminReply = Frame { kind: 41, body: bytes.slice(6..) }.decode().unwrap();
    assert_eq!(back, message);
    back.result.unwrap()
}

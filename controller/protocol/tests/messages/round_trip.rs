//! Every message decodes to what was encoded.

use std::fmt::Debug;

use cframe_protocol::{
    frame::{Decoder, Frame, Incoming, MAX_FRAME, Message, encode},
    v1::*,
};
use proptest::prelude::*;

use crate::strategies as any;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hello(message in any::hello()) { check(&message)?; }

    #[test]
    fn update(message in any::update()) { check(&message)?; }

    #[test]
    fn ack(version in any::version()) { check(&Ack { version })?; }

    #[test]
    fn ping_and_pong(nonce: u64, version in proptest::option::of(any::version())) {
        check(&Ping { nonce, version })?;
        check(&Pong { nonce, version })?;
    }

    #[test]
    fn report(message in any::report()) { check(&message)?; }

    #[test]
    fn problems(message in any::problems()) { check(&message)?; }

    #[test]
    fn renew_request(csr: Vec<u8>) { check(&RenewRequest { csr })?; }

    #[test]
    fn replies_to_enrolment_and_renewal(result in any::enroll_result()) {
        check(&RenewReply { result: result.clone() })?;
        check(&EnrollReply { result })?;
    }

    #[test]
    fn goodbye(message in any::goodbye()) { check(&message)?; }

    #[test]
    fn enroll_request(message in any::enroll_request()) { check(&message)?; }

    #[test]
    fn admin_request(call in any::call(), dry_run: bool) { check(&AdminRequest { call, dry_run })?; }

    #[test]
    fn admin_reply(result in proptest::result::maybe_ok(any::reply(8), any::call_error())) {
        check(&AdminReply { result })?;
    }

    #[test]
    fn frames_may_come_in_any_pieces(
        reports in proptest::collection::vec(any::report(), 1..4),
        sizes in proptest::collection::vec(1..200usize, 1..50),
    ) {
        let bytes: Vec<u8> = reports.iter().flat_map(|r| encode(r).unwrap()).collect();
        let mut decoder = Decoder::new(MAX_FRAME);
        let mut rest = bytes.as_slice();
        let mut sizes = sizes.into_iter().cycle();
        let mut arrived = Vec::new();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            decoder.push(piece);
            rest = later;
            while let Some(frame) = decoder.next_frame().unwrap() {
                arrived.push(frame.decode::<Report>().unwrap());
            }
        }
        prop_assert!(decoder.is_empty());
        prop_assert_eq!(arrived, reports);
    }
}

#[test]
fn renew_now() {
    check(&RenewNow {}).unwrap();
}

#[test]
fn a_stream_has_its_own_messages_and_others_are_skipped() {
    let frame = |bytes: bytes::Bytes| {
        let mut decoder = Decoder::new(MAX_FRAME);
        decoder.push(&bytes);
        decoder.next_frame().unwrap().unwrap()
    };
    let ping = frame(encode(&Ping { nonce: 1, version: None }).unwrap());
    assert!(matches!(FromEdge::parse(&ping), Ok(Some(FromEdge::Ping(Ping { nonce: 1, .. })))));
    assert!(matches!(ToEdge::parse(&ping), Ok(Some(ToEdge::Ping(_)))));
    let ack = frame(encode(&Ack { version: Version::default() }).unwrap());
    assert_eq!(ToEdge::parse(&ack), Ok(None), "edges get no acks");
    let unknown = Frame { kind: 999, body: bytes::Bytes::from_static(b"from the future") };
    assert_eq!(FromEdge::parse(&unknown), Ok(None));
    assert_eq!(AdminReply::parse(&unknown), Ok(None));
}

fn check<M: Message + PartialEq + Debug>(message: &M) -> Result<(), TestCaseError> {
    let bytes = encode(message).unwrap();
    let mut decoder = Decoder::new(MAX_FRAME);
    decoder.push(&bytes);
    let frame = decoder.next_frame().unwrap().unwrap();
    prop_assert_eq!(frame.kind, M::TYPE);
    prop_assert_eq!(&frame.decode::<M>().unwrap(), message);
    prop_assert!(decoder.is_empty());
    Ok(())
}

//! Frames and bodies that are refused.

use bytes::Bytes;
use cframe_protocol::{
    frame::{
        BadLength, Decoder, Frame, Incoming, MAX_FRAME, MAX_UNAUTHENTICATED, Message, encode,
        encode_within,
    },
    v1::*,
};
use proptest::prelude::*;

use crate::samples;

#[test]
fn a_length_is_refused_before_anything_of_the_frame_is_read() {
    for (max, len) in [(MAX_FRAME, 65_537u32), (MAX_UNAUTHENTICATED, 4_097), (MAX_FRAME, u32::MAX)]
    {
        let mut decoder = Decoder::new(max);
        decoder.push(&len.to_be_bytes()[..3]);
        assert_eq!((decoder.wants(), decoder.next_frame()), (1, Ok(None)));
        decoder.push(&len.to_be_bytes()[3..]);
        assert_eq!(decoder.next_frame(), Err(BadLength { len, max }));
        assert_eq!(decoder.wants(), 0, "no more bytes are wanted");
    }
}

#[test]
fn a_length_without_room_for_the_type_is_refused() {
    for len in [0u32, 1] {
        let mut decoder = Decoder::new(MAX_FRAME);
        decoder.push(&len.to_be_bytes());
        assert_eq!(decoder.next_frame(), Err(BadLength { len, max: MAX_FRAME }));
    }
}

#[test]
fn the_longest_frame_passes_on_both_sides() {
    // 13 bytes besides the text: type, no version, the text's length, the boot id; 65,536 in all.
    let hello = |len: usize| EdgeHello { have: None, software: "x".repeat(len), boot: [0; 16] };
    let fits = 65_536 - 2 - 1 - 3 - 16;
    let bytes = encode(&hello(fits)).unwrap();
    assert_eq!(bytes.len(), 4 + MAX_FRAME);
    let error = encode(&hello(fits + 1)).unwrap_err();
    assert_eq!((error.kind, error.len, error.max), (1, 65_537, 65_536));
    let mut decoder = Decoder::new(MAX_FRAME);
    assert_eq!(decoder.wants(), 4);
    decoder.push(&bytes[..4]);
    assert_eq!(decoder.wants(), MAX_FRAME);
    decoder.push(&bytes[4..]);
    assert!(decoder.next_frame().unwrap().is_some());
}

#[test]
fn an_enrolment_request_of_usual_size_fits_an_unauthenticated_frame() {
    let request = EnrollRequest { token_id: [1; 16], secret: vec![2; 32], csr: vec![0x30; 2000] };
    assert!(encode_within(&request, MAX_UNAUTHENTICATED).is_ok());
    let request = EnrollRequest { csr: vec![0x30; 5000], ..request };
    assert!(encode_within(&request, MAX_UNAUTHENTICATED).is_err());
}

#[test]
fn trailing_bytes_are_refused() {
    for sample in samples::all() {
        let mut body = sample.bytes[6..].to_vec();
        body.push(0);
        assert!(parse_all(&frame(&sample.bytes, body)).is_err(), "{}", sample.name);
    }
}

#[test]
fn a_body_that_ends_early_is_refused() {
    for sample in samples::all() {
        for end in 6..sample.bytes.len() {
            let body = sample.bytes[6..end].to_vec();
            assert!(parse_all(&frame(&sample.bytes, body)).is_err(), "{} {end}", sample.name);
        }
    }
}

#[test]
fn values_are_validated_on_the_wire() {
    // A label in upper case, a DNS name with an underscore, a prefix length of 33.
    let ok = encode(&AdminRequest {
        call: Call::RouteAdd {
            namespace: "prod".parse().unwrap(),
            name: "pods".parse().unwrap(),
            prefix: "10.0.0.0/8".parse().unwrap(),
            edge: "idc".parse().unwrap(),
        },
        dry_run: false,
    })
    .unwrap();
    let swap = |from: &[u8], to: &[u8]| {
        let body = ok[6..].to_vec();
        let at = body.windows(from.len()).position(|w| w == from).unwrap();
        let body = [&body[..at], to, &body[at + from.len()..]].concat();
        Frame { kind: 40, body: body.into() }.decode::<AdminRequest>()
    };
    assert!(swap(b"pods", b"pod_").is_err());
    assert!(swap(b"pods", b"Pods").is_err());
    assert!(swap(&[10, 0, 0, 0, 8], &[10, 0, 0, 0, 33]).is_err());
    assert!(swap(b"pods", b"pods").is_ok());
}

proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(kind in 0..45u16, body: Vec<u8>) {
        let _ = parse_all(&Frame { kind, body: body.into() });
    }

    #[test]
    fn a_stream_of_garbage_is_an_error_or_frames(bytes: Vec<u8>) {
        let mut decoder = Decoder::new(MAX_UNAUTHENTICATED);
        decoder.push(&bytes);
        while let Ok(Some(frame)) = decoder.next_frame() {
            let _ = parse_all(&frame);
        }
    }

    #[test]
    fn a_message_with_one_wrong_byte_is_an_error_or_another_message(
        index: prop::sample::Index,
        at: prop::sample::Index,
        byte: u8,
    ) {
        let samples = samples::all();
        let sample = index.get(&samples);
        let mut body = sample.bytes[6..].to_vec();
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let _ = parse_all(&frame(&sample.bytes, body));
    }
}

fn frame(whole: &Bytes, body: Vec<u8>) -> Frame {
    Frame { kind: u16::from_be_bytes([whole[4], whole[5]]), body: body.into() }
}

/// Decodes the frame as each message, and checks that what was decoded encodes and decodes again.
fn parse_all(frame: &Frame) -> Result<bool, cframe_protocol::frame::Malformed> {
    let mut known = false;
    known |= FromEdge::parse(frame)?.is_some();
    known |= ToEdge::parse(frame)?.is_some();
    known |= decode_and_encode::<EnrollRequest>(frame)?;
    known |= decode_and_encode::<EnrollReply>(frame)?;
    known |= decode_and_encode::<AdminRequest>(frame)?;
    known |= decode_and_encode::<AdminReply>(frame)?;
    Ok(known)
}

fn decode_and_encode<M: Message + PartialEq + std::fmt::Debug>(
    frame: &Frame,
) -> Result<bool, cframe_protocol::frame::Malformed> {
    let Some(message) = M::parse(frame)? else {
        return Ok(false);
    };
    let bytes = encode(&message).unwrap();
    let back: M = Frame { kind: frame.kind, body: bytes.slice(6..) }.decode()?;
    assert_eq!(back, message);
    Ok(true)
}

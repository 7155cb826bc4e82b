//! Any bytes are frames or an error. What was decoded encodes and decodes again to the same.
//!
//! `cargo +nightly fuzz run frames` in `controller/protocol`.

#![no_main]

use cframe_protocol::{
    frame::{Decoder, Frame, Incoming, MAX_FRAME, Message, encode},
    v1::{
        AdminReply, AdminRequest, EnrollReply, EnrollRequest, FromEdge, RenewReply, Report, ToEdge,
        Update,
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::new(MAX_FRAME);
    decoder.push(bytes);
    while let Ok(Some(frame)) = decoder.next_frame() {
        let _ = FromEdge::parse(&frame);
        let _ = ToEdge::parse(&frame);
        decode_and_encode::<Update>(&frame);
        decode_and_encode::<Report>(&frame);
        decode_and_encode::<RenewReply>(&frame);
        decode_and_encode::<EnrollRequest>(&frame);
        decode_and_encode::<EnrollReply>(&frame);
        decode_and_encode::<AdminRequest>(&frame);
        decode_and_encode::<AdminReply>(&frame);
    }
});

fn decode_and_encode<M: Message + PartialEq + std::fmt::Debug>(frame: &Frame) {
    let Ok(Some(message)) = M::parse(frame) else {
        return;
    };
    // Normalising an endpoint may make it longer, and only then the message may not fit any more.
    let back = encode(&message).map(|bytes| (bytes.len(), bytes.slice(6..)));
    let Ok((len, body)) = back else {
        return;
    };
    match (Frame { kind: M::TYPE, body }).decode::<M>() {
        Ok(back) => assert_eq!(back, message),
        Err(error) => assert!(len > 6 + frame.body.len(), "{error}"),
    }
}

//! A stream of bytes is frames or an error. What can be read can be written, and reads the same.
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
        again::<Update>(&frame);
        again::<Report>(&frame);
        again::<RenewReply>(&frame);
        again::<EnrollRequest>(&frame);
        again::<EnrollReply>(&frame);
        again::<AdminRequest>(&frame);
        again::<AdminReply>(&frame);
    }
});

fn again<M: Message + PartialEq + std::fmt::Debug>(frame: &Frame) {
    let Ok(Some(message)) = M::parse(frame) else {
        return;
    };
    // Endpoints are read in any spelling and written in one, which may be longer: then, and only then,
    // what fitted before may not fit.
    let back = encode(&message).map(|bytes| (bytes.len(), bytes.slice(6..)));
    let Ok((len, body)) = back else {
        return;
    };
    match (Frame { kind: M::TYPE, body }).decode::<M>() {
        Ok(back) => assert_eq!(back, message),
        Err(error) => assert!(len > 6 + frame.body.len(), "{error}"),
    }
}

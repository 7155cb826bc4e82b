//! For any updates, versions never decrease and a state appears only with a last piece.
//!
//! `cargo +nightly fuzz run updates` in `controller/protocol`.

#![no_main]

use cframe_protocol::{
    desired::{Assembled, Assembler},
    frame::{Decoder, Incoming, MAX_FRAME},
    v1::Update,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::new(MAX_FRAME);
    decoder.push(bytes);
    let mut assembler = Assembler::default();
    while let Ok(Some(frame)) = decoder.next_frame() {
        let Ok(Some(update)) = Update::parse(&frame) else {
            continue;
        };
        let (before, last, to) = (assembler.version(), update.last, update.to);
        match assembler.push(update) {
            Ok(Some(Assembled { state, .. })) => {
                assert!(last && state.version == to);
                assert!(before.is_none_or(|before| to.at_least(&before)));
            }
            Ok(None) | Err(_) => assert_eq!(assembler.version(), before),
        }
    }
});

//! The frozen bytes of every message.
//!
//! A failure here means that two releases don't understand each other. For a new message
//! `CFRAME_WRITE_SNAPSHOTS=1 cargo test -p cframe-protocol` writes the file. The file of a released
//! message never changes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use cframe_protocol::frame::{Decoder, MAX_FRAME};

use crate::samples::{self, Sample};

const WRITE: &str = "CFRAME_WRITE_SNAPSHOTS";

#[test]
fn the_bytes_of_every_message_are_unchanged() {
    let samples = samples::all();
    if std::env::var_os(WRITE).is_some() {
        samples.iter().for_each(write);
    }
    let changed: Vec<&str> = samples.iter().filter_map(changed).collect();
    assert!(changed.is_empty(), "the bytes of these have changed: {changed:?}");
}

#[test]
fn the_frozen_bytes_read_as_the_messages() {
    for sample in samples::all() {
        let mut decoder = Decoder::new(MAX_FRAME);
        decoder.push(&frozen(&sample));
        let frame = decoder.next_frame().unwrap().unwrap();
        assert!((sample.reads)(&frame), "{}", sample.name);
        assert!(decoder.is_empty(), "{}", sample.name);
    }
}

#[test]
fn every_snapshot_has_its_message() {
    let names: BTreeSet<String> =
        samples::all().into_iter().map(|sample| format!("{}.hex", sample.name)).collect();
    let files: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, names);
}

#[test]
fn variants_are_numbered_in_the_frozen_order_and_none_is_missing() {
    // The first byte of an enum is its variant's number.
    let number = |value: Vec<u8>| usize::from(value[0]);
    let calls = samples::calls().into_iter().map(|call| number(body(&call)));
    assert!(calls.eq(0..43));
    let changes = samples::changes().into_iter().map(|(_, change)| number(body(&change)));
    assert!(changes.eq(0..9));
    let replies = samples::replies().into_iter().map(|(_, reply)| number(body(&reply)));
    assert!(replies.eq(0..22));
}

fn body<T: serde::Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap()
}

fn changed(sample: &Sample) -> Option<&str> {
    (frozen(sample) != sample.bytes).then_some(&sample.name)
}

fn frozen(sample: &Sample) -> Vec<u8> {
    let path = path(sample);
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; {WRITE}=1 writes it", path.display()));
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn write(sample: &Sample) {
    let lines = sample.bytes.chunks(32).map(|line| {
        let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
        hex + "\n"
    });
    fs::create_dir_all(directory()).unwrap();
    fs::write(path(sample), lines.collect::<String>()).unwrap();
}

fn path(sample: &Sample) -> PathBuf {
    directory().join(format!("{}.hex", sample.name))
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

//! The part of a QUIC handshake that anyone on the path can read: Initial packets are encrypted with keys that are derived
//! from the connection id in them (RFC 9001 §5.2).

use std::collections::BTreeMap;

use cframe_testbed::{Packet, Pcap};
use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{Keys, Version};

/// The client hellos in a capture, as TLS messages.
pub(crate) fn client_hellos(pcap: &Pcap) -> Vec<Vec<u8>> {
    let mut hellos: BTreeMap<Vec<u8>, BTreeMap<usize, Vec<u8>>> = BTreeMap::new();
    for mut datagram in pcap.packets().iter().filter_map(udp_payload) {
        // A datagram may have several packets: coalesced, or captured before segmentation.
        while let Some(Initial { id, plain, rest }) = open_initial(datagram) {
            hellos.entry(id).or_default().extend(crypto_frames(&plain));
            datagram = rest;
        }
    }
    hellos.into_values().map(join_frames).filter(|hello| hello.first() == Some(&1)).collect()
}

/// The types of the extensions in a client hello (RFC 8446 §4.1.2).
pub(crate) fn extensions(hello: &[u8]) -> Option<Vec<u16>> {
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(*hello.get(at)?);
    at += 2 + usize::from(word(hello, at)?);
    at += 1 + usize::from(*hello.get(at)?);
    let end = at + 2 + usize::from(word(hello, at)?);
    at += 2;
    let mut found = Vec::new();
    while at < end {
        found.push(word(hello, at)?);
        at += 4 + usize::from(word(hello, at + 2)?);
    }
    Some(found)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn udp_payload(packet: &Packet) -> Option<&[u8]> {
    let ip = packet.ip()?;
    match ip.first()? >> 4 {
        4 if ip.get(9) == Some(&17) => ip.get(usize::from(ip[0] & 0xf) * 4 + 8..),
        6 if ip.get(6) == Some(&17) => ip.get(48..),
        _ => None,
    }
}

/// A client's Initial packet.
struct Initial<'a> {
    /// The connection id that the client chose for the server.
    id: Vec<u8>,
    plain: Vec<u8>,
    /// The bytes after it in the datagram.
    rest: &'a [u8],
}

fn open_initial(datagram: &[u8]) -> Option<Initial<'_>> {
    let first = *datagram.first()?;
    // Long header, fixed bit, type Initial, version 1 (RFC 9000 §17.2).
    if first & 0xf0 != 0xc0 || datagram.get(1..5)? != [0, 0, 0, 1] {
        return None;
    }
    let mut at = 5;
    let id = datagram.get(at + 1..at + 1 + usize::from(*datagram.get(at)?))?.to_vec();
    at += 1 + id.len();
    at += 1 + usize::from(*datagram.get(at)?);
    let (token, length) = varint(datagram, at)?;
    at += length + token;
    let (length, size) = varint(datagram, at)?;
    at += size;
    let mut packet = datagram.get(..at + length)?.to_vec();
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?;
    let keys = Keys::initial(Version::V1, suite, suite.quic?, &id, Side::Server);
    let sample = packet.get(at + 4..at + 20)?.to_vec();
    let (head, rest) = packet.split_at_mut(at);
    let number = rest.get_mut(..4)?;
    keys.remote.header.decrypt_in_place(&sample, &mut head[0], number).ok()?;
    let number_length = usize::from(head[0] & 3) + 1;
    let number =
        rest[..number_length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let header = packet[..at + number_length].to_vec();
    let payload = packet.get_mut(at + number_length..)?;
    let plain = keys.remote.packet.decrypt_in_place(number, &header, payload).ok()?;
    Some(Initial { id, plain: plain.to_vec(), rest: &datagram[at + length..] })
}

/// The offset and data of each CRYPTO frame, until the first frame that is not CRYPTO, PADDING or PING (RFC 9000 §19).
fn crypto_frames(plain: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(kind) = plain.get(at) {
        at += 1;
        match kind {
            0 | 1 => {}
            6 => {
                let Some((offset, first)) = varint(plain, at) else { break };
                let Some((length, second)) = varint(plain, at + first) else { break };
                at += first + second;
                let Some(data) = plain.get(at..at + length) else { break };
                frames.push((offset, data.to_vec()));
                at += length;
            }
            _ => break,
        }
    }
    frames
}

fn join_frames(frames: BTreeMap<usize, Vec<u8>>) -> Vec<u8> {
    let mut whole = Vec::new();
    for (offset, data) in frames {
        if offset <= whole.len() {
            whole.truncate(offset);
            whole.extend(data);
        }
    }
    whole
}

/// A variable-length integer, and its length in bytes (RFC 9000 §16).
fn varint(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = *bytes.get(at)?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(at + 1..at + length)?;
    let value =
        rest.iter().fold(usize::from(first & 0x3f), |value, byte| value << 8 | usize::from(*byte));
    Some((value, length))
}

//! The lower bound of the cost of a tunnel of this design: TUN super-packets are split, sealed with
//! one AES-128-GCM per packet and sent in batches over UDP, and the reverse. It has no handshake,
//! acknowledgements, loss detection or tables. **Not for real use**: the key is public, and there is
//! no replay protection.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::BytesMut;
use cframe_edge::host::socket::{RECEIVE_BATCH, Socket};
use cframe_edge::host::tun::Tun;
use cframe_packet::coalesce::Coalescer;
use cframe_packet::ip::Packet;
use cframe_packet::split::Splitter;
use cframe_packet::vnet::VnetHeader;
use quinn_udp::{RecvMeta, Transmit};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of the TUN device to create
    #[arg(long)]
    device: String,
    /// MTU of the device
    #[arg(long)]
    mtu: u16,
    /// UDP port to bind
    #[arg(long)]
    port: u16,
    /// UDP address of the other end
    #[arg(long)]
    peer: SocketAddr,
    /// 0 at one end, 1 at the other, for different nonces
    #[arg(long)]
    side: u8,
}

/// Forwards packets until it is killed.
pub fn run(options: &Options) -> Result<()> {
    let tun = Tun::open(&options.device, options.mtu)?;
    let socket = Socket::bind(options.port, 0)?;
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).context("creating the key")?;
    let key = LessSafeKey::new(key);
    let max = socket.max_segments().min(MAX_SEGMENTS);
    let mut sender = Sender {
        splitter: Splitter::default(),
        batch: Vec::with_capacity(MAX_BATCH),
        segment: 0,
        count: 0,
        max,
        counter: 0,
        side: options.side,
        peer: options.peer,
    };
    let mut receiver = Receiver {
        slots: std::array::from_fn(|_| BytesMut::zeroed(SLOT)),
        meta: [RecvMeta::default(); RECEIVE_BATCH],
        coalescer: Coalescer::new(1, tun.udp_offload),
        side: 1 - options.side.min(1),
    };
    let mut frame = vec![0; SLOT + VnetHeader::LEN].into_boxed_slice();
    println!("ready");
    loop {
        wait(&socket, &tun)?;
        receiver.receive(&socket, &tun, &key);
        sender.send(&socket, &tun, &key, &mut frame)?;
    }
}

/// Size of a receive buffer: the largest batch that GRO delivers.
const SLOT: usize = 64 << 10;
const MAX_SEGMENTS: usize = 44;
/// Maximum payload of a UDP packet, and so of a batch.
const MAX_BATCH: usize = 65_507;
const TUN_READS: usize = 16;
const COUNTER: usize = 8;
const TAG: usize = 16;

fn wait(socket: &Socket, tun: &Tun) -> Result<()> {
    let mut fds = [
        PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("polling"),
    }
}

fn nonce(side: u8, counter: [u8; COUNTER]) -> Nonce {
    let mut nonce = [side; 12];
    nonce[4..].copy_from_slice(&counter);
    Nonce::assume_unique_for_key(nonce)
}

/// Collects a batch of packets for one system call. All have the size of the first, except the last
/// one, which may be shorter.
struct Sender {
    splitter: Splitter,
    batch: Vec<u8>,
    segment: usize,
    count: usize,
    max: usize,
    counter: u64,
    side: u8,
    peer: SocketAddr,
}

impl Sender {
    fn send(
        &mut self,
        socket: &Socket,
        tun: &Tun,
        key: &LessSafeKey,
        frame: &mut [u8],
    ) -> Result<()> {
        for _ in 0..TUN_READS {
            let Some(len) = tun.read(frame).context("reading the TUN")? else { break };
            let Some((header, bytes)) = VnetHeader::parse(&frame[..len]) else { continue };
            let Ok(packet) = Packet::parse(bytes) else { continue };
            // Malformed super-packets are dropped.
            let Ok(packets) = self.splitter.split(&header, &packet, usize::MAX) else { continue };
            packets.for_each(|packet| self.push(socket, key, &packet));
        }
        self.flush(socket);
        Ok(())
    }

    fn push(&mut self, socket: &Socket, key: &LessSafeKey, packet: &[u8]) {
        let len = COUNTER + packet.len() + TAG;
        let full = self.count == self.max || self.batch.len() + len > MAX_BATCH;
        if self.count > 0 && (full || len > self.segment) {
            self.flush(socket);
        }
        if self.count == 0 {
            self.segment = len;
        }
        self.counter += 1;
        let counter = self.counter.to_be_bytes();
        self.batch.extend_from_slice(&counter);
        let start = self.batch.len();
        self.batch.extend_from_slice(packet);
        let sealed = key.seal_in_place_separate_tag(
            nonce(self.side, counter),
            Aad::empty(),
            &mut self.batch[start..],
        );
        let Ok(tag) = sealed else { return self.batch.truncate(start - COUNTER) };
        self.batch.extend_from_slice(tag.as_ref());
        self.count += 1;
        if len < self.segment {
            self.flush(socket);
        }
    }

    fn flush(&mut self, socket: &Socket) {
        if self.count == 0 {
            return;
        }
        let transmit = Transmit {
            destination: self.peer,
            ecn: None,
            contents: &self.batch,
            segment_size: (self.count > 1).then_some(self.segment),
            src_ip: None,
        };
        while let Err(error) = socket.send(&transmit) {
            if error.kind() != std::io::ErrorKind::WouldBlock {
                break;
            }
            let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
            let _ = poll(&mut fds, None);
        }
        self.batch.clear();
        self.count = 0;
    }
}

struct Receiver {
    slots: [BytesMut; RECEIVE_BATCH],
    meta: [RecvMeta; RECEIVE_BATCH],
    coalescer: Coalescer,
    side: u8,
}

impl Receiver {
    fn receive(&mut self, socket: &Socket, tun: &Tun, key: &LessSafeKey) {
        let mut bufs = self.slots.each_mut().map(|slot| IoSliceMut::new(slot));
        let Ok(count) = socket.receive(&mut bufs, &mut self.meta) else { return };
        // Packets that the device refuses are lost.
        let mut write = |slices: &[std::io::IoSlice<'_>]| drop(tun.write(slices));
        for (slot, meta) in self.slots.iter_mut().zip(&self.meta).take(count) {
            let mut batch = slot.split_to(meta.len);
            while !batch.is_empty() {
                let datagram = batch.split_to(meta.stride.min(batch.len()));
                if let Some(packet) = open(key, self.side, datagram) {
                    self.coalescer.push(packet.freeze(), &mut write);
                }
            }
        }
        self.coalescer.flush(&mut write);
        for slot in self.slots.iter_mut().filter(|slot| slot.len() < SLOT) {
            // All packets of the slot have been written, so `reserve` reuses its memory.
            slot.clear();
            slot.reserve(SLOT);
            slot.resize(SLOT, 0);
        }
    }
}

fn open(key: &LessSafeKey, side: u8, mut datagram: BytesMut) -> Option<BytesMut> {
    let counter: [u8; COUNTER] = *datagram.first_chunk()?;
    let mut sealed = datagram.split_off(COUNTER);
    let length = key.open_in_place(nonce(side, counter), Aad::empty(), &mut sealed).ok()?.len();
    sealed.truncate(length);
    Some(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_sealed_by_one_end_is_opened_only_by_the_other() {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
        let counter = 5_u64.to_be_bytes();
        let mut packet = b"a packet".to_vec();
        key.seal_in_place_append_tag(nonce(0, counter), Aad::empty(), &mut packet).unwrap();
        let datagram = [&counter[..], &packet].concat();
        let opened = open(&key, 0, BytesMut::from(&datagram[..])).unwrap();
        assert_eq!(&opened[..], b"a packet");
        assert_eq!(open(&key, 1, BytesMut::from(&datagram[..])), None);
        assert_eq!(open(&key, 0, BytesMut::from(&datagram[..7])), None);
    }
}

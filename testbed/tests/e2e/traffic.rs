//! What workloads send: UDP with an echo, TCP with a checksum, and hand-made packets.

use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cframe_testbed::Host;

/// Random bytes that no other packet contains.
pub(crate) fn canary() -> [u8; 32] {
    rand::random()
}

/// A thread that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn run(work: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = thread::spawn({
            let (stop, count) = (stop.clone(), count.clone());
            move || work(&stop, &count)
        });
        Self { stop, count, thread: Some(thread) }
    }

    pub(crate) fn counted(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

pub(crate) fn socket(host: &Host, at: SocketAddr) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// Starts an echo server for UDP; it counts datagrams.
pub(crate) fn echo(host: &Host, at: SocketAddr) -> Background {
    let socket = socket(host, at);
    Background::run(move |stop, count| {
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::Relaxed);
                drop(socket.send_to(&buffer[..length], from));
            }
        }
    })
}

/// Whether an echo server returns a datagram of `size` bytes unchanged, in one of three attempts: by the first, the
/// sender's kernel may learn the path MTU.
pub(crate) fn echoes(from: &Host, to: SocketAddr, size: usize) -> bool {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = socket(from, (any, 0).into());
    let sent: Vec<u8> = (0..size).map(|_| rand::random()).collect();
    let mut buffer = vec![0; 65_536];
    (0..3).any(|_| {
        // "Message too long": the kernel has just learned of a smaller MTU.
        if socket.send_to(&sent, to).is_err() {
            return false;
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            if let Ok((length, _)) = socket.recv_from(&mut buffer)
                && buffer[..length] == sent[..]
            {
                return true;
            }
        }
        false
    })
}

/// Sends random bytes over TCP; true if they arrive unchanged.
pub(crate) fn transfers(from: &Host, to: &Host, at: SocketAddr, bytes: usize) -> bool {
    let listener = to.enter(|| TcpListener::bind(at)).unwrap().unwrap();
    let at = listener.local_addr().unwrap();
    let received = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (mut hash, mut all, mut buffer) = (DefaultHasher::new(), 0, vec![0; 1 << 16]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return (all, hash.finish()),
                Ok(length) => {
                    all += length;
                    hash.write(&buffer[..length]);
                }
            }
        }
    });
    let mut stream = from.enter(|| TcpStream::connect(at)).unwrap().unwrap();
    let (mut hash, mut left) = (DefaultHasher::new(), bytes);
    let mut block: Vec<u8> = (0..4096).map(|_| rand::random()).collect();
    while left > 0 {
        let length = left.min(block.len());
        block[..8].copy_from_slice(&left.to_ne_bytes());
        stream.write_all(&block[..length]).unwrap();
        hash.write(&block[..length]);
        left -= length;
    }
    drop(stream);
    received.join().unwrap() == (bytes, hash.finish())
}

/// Starts a TCP flow at full speed; it counts the bytes that arrive.
pub(crate) fn flow(from: &Host, to: &Host, at: SocketAddr) -> Background {
    let listener = to.enter(|| TcpListener::bind(at)).unwrap().unwrap();
    let at = listener.local_addr().unwrap();
    let sender = from.enter(|| TcpStream::connect(at)).unwrap().unwrap();
    let (receiver, _) = listener.accept().unwrap();
    Background::run(move |stop, count| {
        let timeout = Some(Duration::from_millis(20));
        sender.set_write_timeout(timeout).unwrap();
        receiver.set_read_timeout(timeout).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let block = vec![0x5a; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    let result = (&sender).write(&block);
                    assert!(result.is_ok() || timed_out(&result), "{result:?}");
                }
            });
            let mut buffer = vec![0; 1 << 18];
            while !stop.load(Ordering::Relaxed) {
                let result = (&receiver).read(&mut buffer);
                assert!(result.is_ok() || timed_out(&result), "{result:?}");
                count.fetch_add(result.unwrap_or(0) as u64, Ordering::Relaxed);
            }
        });
    })
}

fn timed_out(result: &std::io::Result<usize>) -> bool {
    let kind = result.as_ref().err().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Starts to send UDP datagrams of `size` bytes at `rate` per second; it counts those sent.
pub(crate) fn blast(from: &Host, to: SocketAddr, size: usize, rate: u64) -> Background {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = socket(from, (any, 0).into());
    Background::run(move |stop, count| {
        socket.connect(to).unwrap();
        let payload = vec![0xa5; size];
        let start = Instant::now();
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            #[expect(clippy::cast_possible_truncation, reason = "minutes of packets")]
            let due = (start.elapsed().as_micros() * u128::from(rate) / 1_000_000) as u64;
            if sent >= due {
                // Spinning would take a processor from the tunnel.
                thread::sleep(Duration::from_micros(100));
            }
            while sent < due {
                // A full device or an ICMP error must not end it.
                drop(socket.send(&payload));
                sent += 1;
            }
            count.store(sent, Ordering::Relaxed);
        }
    })
}

/// Starts to receive and count UDP datagrams; returns the bound address too.
pub(crate) fn sink(host: &Host, at: SocketAddr) -> (SocketAddr, Background) {
    let socket = socket(host, at);
    let at = socket.local_addr().unwrap();
    let count = Background::run(move |stop, count| {
        while !stop.load(Ordering::Relaxed) {
            if socket.recv_from(&mut []).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (at, count)
}

/// Sends `count` UDP datagrams of `size` bytes at `rate` per second.
pub(crate) fn volley(from: &Host, to: SocketAddr, size: usize, count: u32, rate: u32) {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = socket(from, (any, 0).into());
    socket.connect(to).unwrap();
    let (payload, start) = (vec![0xa5; size], Instant::now());
    for sent in 0..count {
        let due = start + Duration::from_secs(1) * sent / rate;
        while Instant::now() < due {
            thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(socket.send(&payload).unwrap(), size);
    }
}

/// An IPv4 or IPv6 packet with a UDP datagram to the discard port.
pub(crate) fn udp_packet(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut udp =
        [40_000_u16.to_be_bytes(), 9_u16.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    udp.extend_from_slice(payload);
    let (mut pseudo, mut packet) = (Vec::new(), Vec::new());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            pseudo.extend([from.octets(), to.octets()].concat());
            pseudo.extend([0, 17]);
            packet.extend([0x45, 0]);
            packet.extend((20 + length).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            packet.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            pseudo.extend([from.octets(), to.octets()].concat());
            pseudo.extend([0, 17]);
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([17, 64]);
            packet.extend([from.octets(), to.octets()].concat());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            panic!("{from} and {to} are not of one family")
        }
    }
    pseudo.extend(length.to_be_bytes());
    pseudo.extend_from_slice(&udp);
    let sum = checksum(&pseudo);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    packet.extend(udp);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

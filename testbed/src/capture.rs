//! Packet capture on one interface. tcpdump is no option: in a user namespace it fails to drop its
//! privileges and exits.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;
use crate::pcap::{self, Pcap};
use crate::sys;

/// A running capture of all packets of one interface, in both directions, to a pcap file in the
/// lab's directory. Dropping it stops it.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    socket: Arc<Socket>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Receive buffer of the socket: some milliseconds at full speed.
const SOCKET_BUFFER: usize = 64 << 20;

/// Larger than any super-packet.
const MAX_PACKET: usize = 128 << 10;

const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

impl Capture {
    pub(crate) fn start(netns: &Netns, dir: &Path, interface: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{interface}-{number}.pcap"));
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let socket = netns
            .enter(|| open_packet_socket(interface))?
            .with_context(|| format!("capturing on {interface} of {}", netns.name()))?;
        let (socket, stop) = (Arc::new(socket), Arc::new(AtomicBool::new(false)));
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn({
                let (socket, stop) = (socket.clone(), stop.clone());
                move || record(&socket, BufWriter::new(file), &stop)
            })
            .context("starting a thread")?;
        Ok(Self { path, stop, socket, thread: Some(thread) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The packets captured so far.
    pub fn pcap(&self) -> Result<Pcap> {
        Pcap::read(&self.path)
    }

    /// Whether a packet captured so far contains `canary`.
    pub fn contains(&self, canary: &[u8]) -> Result<bool> {
        Ok(self.pcap()?.contains(canary))
    }

    /// Stops and returns all packets; an error if the socket's buffer overflowed.
    pub fn stop(mut self) -> Result<Pcap> {
        self.stop_thread()?;
        let dropped = sys::packets_dropped(&self.socket).context("reading the drop counter")?;
        ensure!(dropped == 0, "the capture is incomplete: {dropped} packets were dropped");
        self.pcap()
    }

    fn stop_thread(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result.with_context(|| format!("writing {}", self.path.display())),
            Some(Err(_)) => Err(anyhow!("the capture's thread has panicked")),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.stop_thread() {
            eprintln!("{error:#}");
        }
    }
}

/// Opens a packet socket (packet(7)) for one interface.
fn open_packet_socket(interface: &str) -> Result<Socket> {
    // Without a protocol it receives nothing before it is bound to its interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("opening a packet socket")?;
    socket.set_nonblocking(true).context("setting the socket to non-blocking")?;
    // Beyond the system's limit if permitted, which it isn't in a user namespace.
    set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER)
        .or_else(|_| set_socket_recv_buffer_size(&socket, SOCKET_BUFFER))
        .context("setting the socket's buffer")?;
    let index = name_to_index(&socket, interface).context("looking the interface up")?;
    sys::bind_to_interface(&socket, index).context("binding to the interface")?;
    Ok(socket)
}

fn record(socket: &Socket, mut file: BufWriter<File>, stop: &AtomicBool) -> Result<()> {
    file.write_all(&pcap::header())?;
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        // Read before the packets, so that all packets before the stop are in the file.
        let stopping = stop.load(Ordering::Relaxed);
        drain(socket, &mut file, &mut buffer)?;
        file.flush()?;
        if stopping {
            return Ok(());
        }
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        poll(&mut fds, Some(&POLL_INTERVAL)).context("waiting for packets")?;
    }
}

fn drain(mut socket: &Socket, file: &mut impl Write, buffer: &mut [u8]) -> Result<()> {
    loop {
        match socket.read(buffer) {
            Ok(length) => pcap::write_record(file, &buffer[..length])?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading packets"),
        }
    }
}

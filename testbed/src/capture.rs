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

use crate::{Netns, Pcap, pcap, sys};

/// Everything that passes one interface, in both directions, written to a pcap file in the lab's
/// directory. Dropping it stops it. It is no tcpdump, which can't give up its privileges in a user
/// namespace and doesn't run without.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    socket: Arc<Socket>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What may wait for us: some milliseconds at full speed.
const BUFFER: usize = 64 << 20;

/// More than the largest super-packet.
const LARGEST: usize = 128 << 10;

impl Capture {
    pub(crate) fn start(netns: &Netns, dir: &Path, interface: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{interface}-{number}.pcap"));
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let socket = netns
            .enter(|| listen(interface))?
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

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What has been captured so far.
    pub fn pcap(&self) -> Result<Pcap> {
        Pcap::read(&self.path)
    }

    /// Whether `canary` is in a packet captured so far.
    pub fn contains(&self, canary: &[u8]) -> Result<bool> {
        Ok(self.pcap()?.contains(canary))
    }

    /// Stops, and returns all packets; an error if some are missing, since it could not keep up.
    pub fn stop(mut self) -> Result<Pcap> {
        self.end()?;
        let dropped =
            sys::packets_dropped(&self.socket).context("asking for the packets dropped")?;
        ensure!(
            dropped == 0,
            "the capture is incomplete: {dropped} packets were too many to keep up with"
        );
        self.pcap()
    }

    fn end(&mut self) -> Result<()> {
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
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// A packet socket (packet(7)) that hears one interface.
fn listen(interface: &str) -> Result<Socket> {
    // Without a protocol nothing comes in before the socket is bound to its interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("opening a packet socket")?;
    socket.set_nonblocking(true).context("setting the socket to non-blocking")?;
    // Beyond the system's limit where we may: not in a user namespace.
    set_socket_recv_buffer_size_force(&socket, BUFFER)
        .or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER))
        .context("setting the socket's buffer")?;
    let index = name_to_index(&socket, interface).context("looking the interface up")?;
    sys::bind_to_interface(&socket, index).context("binding to the interface")?;
    Ok(socket)
}

fn record(socket: &Socket, mut file: BufWriter<File>, stop: &AtomicBool) -> Result<()> {
    file.write_all(&pcap::header())?;
    let mut buffer = vec![0; LARGEST];
    loop {
        // Looked at first: what had passed by then is in the file.
        let stopping = stop.load(Ordering::Relaxed);
        drain(socket, &mut file, &mut buffer)?;
        file.flush()?;
        if stopping {
            return Ok(());
        }
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        poll(&mut fds, Some(&moment)).context("waiting for packets")?;
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

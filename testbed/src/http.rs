//! As much of HTTP/1.1 as it takes to see a web page through the mesh.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Host;

/// How long one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a host that answers every request with the same body, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    host: Host,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on the host's first address.
    pub fn start(host: &Host, port: u16, body: impl Into<Vec<u8>>) -> Result<Self> {
        let address = SocketAddr::new(host.address(), port);
        let listener = host
            .enter(|| TcpListener::bind(address))?
            .with_context(|| format!("listening on {address} of {}", host.name()))?;
        let address = listener.local_addr().context("asking for the listener's address")?;
        let stop = Arc::new(AtomicBool::new(false));
        let body = body.into();
        let thread = thread::Builder::new()
            .name("http".into())
            .spawn({
                let stop = stop.clone();
                move || serve(&listener, &body, &stop)
            })
            .context("starting a thread")?;
        Ok(Self { address, host: host.clone(), stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it from its accept.
        let woken = self.host.enter(|| TcpStream::connect_timeout(&self.address, PATIENCE));
        if matches!(woken, Ok(Ok(_)))
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

/// Fetches `/` of `server` from a host and returns the body.
pub fn fetch(from: &Host, server: SocketAddr) -> Result<Vec<u8>> {
    from.enter(|| get(server))?
        .with_context(|| format!("fetching http://{server}/ from {}", from.name()))
}

fn serve(listener: &TcpListener, body: &[u8], stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // One client at a time; one that breaks off is the fetching side's error.
        drop(stream.map(|stream| answer(stream, body)));
    }
}

fn answer(stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    (&stream).write_all(head.as_bytes())?;
    (&stream).write_all(body)
}

fn get(server: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE)).context("setting a timeout")?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")
        .context("asking")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading the answer")?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("an answer without a body")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    ensure!(head.starts_with("HTTP/1.1 200 "), "an answer other than 200: {head}");
    let body = answer.split_off(end + 4);
    let length = format!("Content-Length: {}", body.len());
    ensure!(head.contains(&length), "a body of {} bytes under the head {head}", body.len());
    Ok(body)
}

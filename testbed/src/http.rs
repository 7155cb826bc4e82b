//! A minimal HTTP/1.1 server and client, to fetch a web page through the mesh.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::host::Host;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A server on a host that answers every request with the same body. Dropping it stops it.
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
        let address = listener.local_addr().context("reading the listener's address")?;
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

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Makes the thread return from accept.
        let woken = self.host.enter(|| TcpStream::connect_timeout(&self.address, TIMEOUT));
        if matches!(woken, Ok(Ok(_)))
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

/// Fetches `/` of `server` from a host and returns the body.
pub fn fetch(from: &Host, server: SocketAddr) -> Result<Vec<u8>> {
    from.enter(|| send_get(server))?
        .with_context(|| format!("fetching http://{server}/ from {}", from.name()))
}

fn serve(listener: &TcpListener, body: &[u8], stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // The client reports errors, so none is reported here.
        drop(stream.map(|stream| send_response(stream, body)));
    }
}

fn send_response(stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
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

fn send_get(server: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).context("connecting")?;
    stream.set_read_timeout(Some(TIMEOUT)).context("setting a timeout")?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")
        .context("sending the request")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).context("reading the response")?;
    let end = response
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the response has no body")?;
    let head = String::from_utf8_lossy(&response[..end]).into_owned();
    ensure!(head.starts_with("HTTP/1.1 200 "), "the response is not 200: {head}");
    let body = response.split_off(end + 4);
    let length = format!("Content-Length: {}", body.len());
    ensure!(head.contains(&length), "got a body of {} bytes after {head}", body.len());
    Ok(body)
}

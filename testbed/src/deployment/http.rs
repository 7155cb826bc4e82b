//! Requests to the programs' local HTTP ports.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends `GET path`; returns the status code and the body.
pub fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let get = || {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).context("connecting")?;
        stream.set_read_timeout(Some(TIMEOUT)).context("setting a timeout")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response).context("reading the response")?;
        parse(&response).with_context(|| format!("not a response of HTTP/1.1: {response:?}"))
    };
    get().with_context(|| format!("GET http://{address}{path}"))
}

fn parse(response: &str) -> Option<(u16, String)> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_its_status_code_and_its_body() {
        let response = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nfull\n";
        assert_eq!(parse(response), Some((503, "full\n".to_owned())));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n"), None);
    }
}

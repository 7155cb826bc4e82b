//! `/metrics` for Prometheus, on the configured port.

use std::{fmt::Write as _, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    local::{self, Call, Request, Response},
    problem::ProblemStatus,
    status::{LinkStatus, Status},
};

const TIMEOUT: Duration = Duration::from_secs(5);
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// In bytes.
const MAX_REQUEST: usize = 8 << 10;

/// Serves one scrape after the other.
pub(crate) async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            // A scraper that is slow or disconnects loses only its own turn.
            Ok((stream, _)) => drop(timeout(TIMEOUT, answer(stream, &calls)).await),
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_DELAY).await,
        }
    }
}

async fn answer(mut stream: TcpStream, calls: &mpsc::Sender<Call>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        let mut part = [0; 1024];
        match stream.read(&mut part).await? {
            0 => break,
            len => request.extend_from_slice(&part[..len]),
        }
    }
    let (status, body) = match request.starts_with(b"GET /metrics ") {
        true => ("200 OK", scrape(calls).await),
        false => ("404 Not Found", "not found; metrics are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn scrape(calls: &mpsc::Sender<Call>) -> String {
    match local::call(Request::Status, calls).await {
        Response::Status(status) => render(&status),
        Response::Doctor(_) | Response::Error(_) => String::new(),
    }
}

fn render(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = plain(&mut out, status);
    let _ = links(&mut out, status);
    let _ = problems(&mut out, status);
    out
}

fn plain(out: &mut String, status: &Status) -> std::fmt::Result {
    let Status { controller, state, certificate, routes, traffic, .. } = status;
    let connected = u64::from(controller.connected.is_some());
    let age = state.age_secs.unwrap_or(0);
    for (name, help, value) in [
        ("controller_connected", "Whether there is a session with a controller.", connected),
        ("state_age_seconds", "Time since a controller confirmed the state.", age),
        (
            "certificate_not_after_seconds",
            "End of the certificate, Unix time.",
            certificate.not_after,
        ),
        ("routes_intended", "Routes that should be in the kernel.", routes.intended as u64),
        ("routes_installed", "Intended routes that are in the kernel.", routes.installed as u64),
        ("uptime_seconds", "Time since the process started.", status.uptime_secs),
        ("sent_packets_total", "Inner packets sent over links.", traffic.sent_packets),
        ("sent_bytes_total", "Inner bytes sent over links.", traffic.sent_bytes),
        ("received_packets_total", "Inner packets received over links.", traffic.received_packets),
        ("received_bytes_total", "Inner bytes received over links.", traffic.received_bytes),
    ] {
        head(out, name, help)?;
        writeln!(out, "cframe_edge_{name} {value}")?;
    }
    head(out, "dropped_total", "Packets dropped, by reason.")?;
    for (reason, count) in &status.drops {
        writeln!(out, "cframe_edge_dropped_total{{reason=\"{reason}\"}} {count}")?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "microseconds as seconds, and byte counts")]
fn links(out: &mut String, status: &Status) -> std::fmt::Result {
    type Value = fn(&LinkStatus) -> f64;
    let series: [(&str, &str, Value); 7] = [
        ("link_up", "Whether the link carries traffic.", |l| f64::from(u8::from(l.up))),
        ("link_rtt_seconds", "Round-trip time.", |l| l.rtt_us as f64 / 1e6),
        ("link_path_mtu_bytes", "Largest UDP payload of the path.", |l| f64::from(l.path_mtu)),
        ("link_loss_ratio", "Ratio of outer packets lost.", |l| l.loss),
        ("link_sent_bytes_total", "Inner bytes sent.", |l| l.traffic.sent_bytes as f64),
        ("link_received_bytes_total", "Inner bytes received.", |l| l.traffic.received_bytes as f64),
        ("link_since_seconds", "Time since it went up or down.", |l| l.since_secs as f64),
    ];
    for (name, help, value) in series {
        head(out, name, help)?;
        for link in &status.links {
            writeln!(out, "cframe_edge_{name}{{peer=\"{}\"}} {}", link.peer, value(link))?;
        }
    }
    Ok(())
}

fn problems(out: &mut String, status: &Status) -> std::fmt::Result {
    head(out, "problem", "Problems that last, by code and by what they are about: 1 each.")?;
    for ProblemStatus { code, severity, about, .. } in &status.problems {
        // A name, prefix or device: nothing that has to be escaped, but texts of others may be in it.
        let about = about.replace(['\\', '"', '\n'], "?");
        writeln!(
            out,
            "cframe_edge_problem{{code=\"{code}\",severity=\"{severity}\",about=\"{about}\"}} 1"
        )?;
    }
    Ok(())
}

fn head(out: &mut String, name: &str, help: &str) -> std::fmt::Result {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    writeln!(out, "# HELP cframe_edge_{name} {help}\n# TYPE cframe_edge_{name} {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let mut status = Status::default();
        status.drops.insert("no_link".to_owned(), 3);
        status.links.push(LinkStatus { peer: "aws-hk".to_owned(), up: true, ..Default::default() });
        let text = render(&status);
        assert!(text.contains("cframe_edge_dropped_total{reason=\"no_link\"} 3\n"));
        assert!(text.contains("cframe_edge_link_up{peer=\"aws-hk\"} 1\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit_once(' ').unwrap().1;
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

//! Throughput, by iperf3.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Host, tool};

/// What an iperf3 run is to do.
#[derive(Clone, Debug)]
pub struct Iperf {
    seconds: u32,
    flows: u32,
    reverse: bool,
    udp_mbit: Option<u32>,
}

/// What it measured.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Payload received, in Mbit/s.
    pub mbit: f64,
    /// TCP segments sent again; 0 with UDP.
    pub retransmits: u64,
    /// UDP packets lost, in percent; 0 with TCP.
    pub lost_percent: f64,
}

impl Iperf {
    /// One TCP flow for so many seconds.
    pub fn tcp(seconds: u32) -> Self {
        Self { seconds, flows: 1, reverse: false, udp_mbit: None }
    }

    /// One UDP flow of so many Mbit/s.
    pub fn udp(seconds: u32, mbit: u32) -> Self {
        Self { udp_mbit: Some(mbit), ..Self::tcp(seconds) }
    }

    /// That many flows at once.
    #[must_use]
    pub fn flows(self, flows: u32) -> Self {
        Self { flows, ..self }
    }

    /// From the server to the client.
    #[must_use]
    pub fn reverse(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// Runs a server on `server` and a client on `client`, which connects to the server's address
    /// `to`.
    pub fn run(&self, client: &Host, server: &Host, to: IpAddr) -> Result<Throughput> {
        let mut listen = server.command("iperf3");
        listen.args(["--server", "--one-off", "--forceflush", "--bind", &to.to_string()]);
        let mut listening = server.spawn(&format!("iperf3-{}", server.name()), listen)?;
        listening.wait_for_log("Server listening", Duration::from_secs(5))?;
        let report = tool::run(client.command("iperf3").args(self.arguments(to)), "")
            .with_context(|| format!("from {} to {to} on {}", client.name(), server.name()))?;
        parse(&report)
    }

    fn arguments(&self, to: IpAddr) -> Vec<String> {
        let mut arguments = vec!["--client".to_owned(), to.to_string(), "--json".to_owned()];
        arguments.extend(["--connect-timeout".to_owned(), "5000".to_owned()]);
        arguments.extend(["--time".to_owned(), self.seconds.to_string()]);
        arguments.extend(["--parallel".to_owned(), self.flows.to_string()]);
        if self.reverse {
            arguments.push("--reverse".to_owned());
        }
        if let Some(mbit) = self.udp_mbit {
            arguments.extend(["--udp".to_owned(), "--bitrate".to_owned(), format!("{mbit}M")]);
        }
        arguments
    }
}

fn parse(report: &str) -> Result<Throughput> {
    let report: Value = serde_json::from_str(report).context("reading iperf3's report")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    // UDP's reports have "sum", with the receiver's loss.
    let received = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    let bits = received["bits_per_second"].as_f64().context("no throughput in iperf3's report")?;
    Ok(Throughput {
        mbit: bits / 1e6,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        lost_percent: received["lost_percent"].as_f64().unwrap_or(0.0),
    })
}

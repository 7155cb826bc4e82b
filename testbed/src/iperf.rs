//! Throughput measured by iperf3.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::tool;

/// Parameters of an iperf3 run.
#[derive(Clone, Debug)]
pub struct Iperf {
    seconds: u32,
    warm_up: u32,
    flows: u32,
    direction: Direction,
    udp: bool,
    mbit: Option<u32>,
    mss: Option<u32>,
    congestion: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
    Both,
}

#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Payload received, in Mbit/s; with [`Iperf::both_ways`] by the server.
    pub mbit: f64,
    /// Payload received by the client, in Mbit/s; 0 without [`Iperf::both_ways`].
    pub back_mbit: f64,
    /// Payload written to the senders' sockets, in bytes, warm-up included.
    pub bytes: u64,
    /// Retransmitted TCP segments; 0 with UDP.
    pub retransmits: u64,
    /// Lost UDP packets, in percent; 0 with TCP.
    pub lost_percent: f64,
}

impl Iperf {
    /// One TCP flow from the client to the server.
    pub fn tcp(seconds: u32) -> Self {
        Self {
            seconds,
            warm_up: 0,
            flows: 1,
            direction: Direction::ToServer,
            udp: false,
            mbit: None,
            mss: None,
            congestion: None,
        }
    }

    /// One UDP flow of this rate from the client to the server.
    pub fn udp(seconds: u32, mbit: u32) -> Self {
        Self { udp: true, mbit: Some(mbit), ..Self::tcp(seconds) }
    }

    /// Number of parallel flows.
    #[must_use]
    pub fn flows(self, flows: u32) -> Self {
        Self { flows, ..self }
    }

    /// Sends from the server to the client instead.
    #[must_use]
    pub fn reverse(self) -> Self {
        Self { direction: Direction::ToClient, ..self }
    }

    /// Sends in both directions at once.
    #[must_use]
    pub fn both_ways(self) -> Self {
        Self { direction: Direction::Both, ..self }
    }

    /// Adds seconds at the start that are not measured.
    #[must_use]
    pub fn warm_up(self, seconds: u32) -> Self {
        Self { warm_up: seconds, ..self }
    }

    /// Limits the rate of each flow.
    #[must_use]
    pub fn pace(self, mbit: u32) -> Self {
        Self { mbit: Some(mbit), ..self }
    }

    /// Limits the size of TCP segments (`TCP_MAXSEG`), options included.
    #[must_use]
    pub fn mss(self, bytes: u32) -> Self {
        Self { mss: Some(bytes), ..self }
    }

    /// Sets TCP's congestion control, such as `bbr`; the system's default otherwise.
    #[must_use]
    pub fn congestion(self, name: &str) -> Self {
        Self { congestion: Some(name.to_owned()), ..self }
    }

    /// Runs a server on `server`, and a client on `client` that connects to the server's address
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
        match self.direction {
            Direction::ToServer => {}
            Direction::ToClient => arguments.push("--reverse".to_owned()),
            Direction::Both => arguments.push("--bidir".to_owned()),
        }
        if self.udp {
            arguments.push("--udp".to_owned());
        }
        if self.warm_up > 0 {
            arguments.extend(["--omit".to_owned(), self.warm_up.to_string()]);
        }
        if let Some(mbit) = self.mbit {
            arguments.extend(["--bitrate".to_owned(), format!("{mbit}M")]);
        }
        if let Some(mss) = self.mss {
            arguments.extend(["--set-mss".to_owned(), mss.to_string()]);
        }
        if let Some(name) = &self.congestion {
            arguments.extend(["--congestion".to_owned(), name.clone()]);
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
    // Reports about UDP have "sum" instead, with the receiver's loss.
    let received = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    let bits = received["bits_per_second"].as_f64().context("no throughput in iperf3's report")?;
    Ok(Throughput {
        mbit: bits / 1e6,
        back_mbit: end["sum_received_bidir_reverse"]["bits_per_second"].as_f64().unwrap_or(0.0)
            / 1e6,
        bytes: bytes(&report),
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        lost_percent: received["lost_percent"].as_f64().unwrap_or(0.0),
    })
}

/// The sum over all intervals: the report's totals exclude the warm-up.
fn bytes(report: &Value) -> u64 {
    let intervals = report["intervals"].as_array().map(Vec::as_slice).unwrap_or_default();
    intervals
        .iter()
        .flat_map(|interval| [&interval["sum"], &interval["sum_bidir_reverse"]])
        .filter_map(|sum| sum["bytes"].as_u64())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_warm_up_and_of_both_directions_are_counted() {
        let report = r#"{
            "intervals": [
                {"sum": {"bytes": 100, "omitted": true}, "sum_bidir_reverse": {"bytes": 10}},
                {"sum": {"bytes": 200, "omitted": false}, "sum_bidir_reverse": {"bytes": 20}}
            ],
            "end": {
                "sum_sent": {"retransmits": 7},
                "sum_received": {"bits_per_second": 3e6},
                "sum_received_bidir_reverse": {"bits_per_second": 2e6}
            }
        }"#;
        let seen = parse(report).unwrap();
        assert_eq!((seen.bytes, seen.retransmits), (330, 7));
        assert_eq!((seen.mbit, seen.back_mbit), (3.0, 2.0));
    }

    #[test]
    fn the_error_in_iperf3s_report_is_returned() {
        let error = parse(r#"{"error": "unable to connect"}"#).unwrap_err();
        assert_eq!(error.to_string(), "iperf3: unable to connect");
    }

    #[test]
    fn each_parameter_becomes_an_argument() {
        let iperf = Iperf::tcp(4).warm_up(1).both_ways().pace(180).mss(1360).congestion("bbr");
        let arguments = iperf.arguments(IpAddr::from([10, 0, 0, 1])).join(" ");
        for part in ["--bidir", "--omit 1", "--bitrate 180M", "--set-mss 1360", "--congestion bbr"]
        {
            assert!(arguments.contains(part), "{part} is not in {arguments}");
        }
    }
}

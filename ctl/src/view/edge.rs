use std::net::SocketAddr;

use cframe_protocol::v1::{EdgeLiveness, EdgeRow, Endpoint, LinkReport, RouteRow, Version};
use ipnet::IpNet;
use serde::Serialize;

use super::{Problem, Row};
use crate::{
    table::{Cell, Table, Tone},
    timestamp::Timestamp,
};

// fields: the JSON of `edge show`
#[derive(Debug, Serialize)]
pub struct Edge {
    pub namespace: String,
    pub name: String,
    pub state: EdgeStateName,
    /// Start of this state; `null` if never seen or unknown.
    pub since: Option<Timestamp>,
    /// The networks behind it, without those of routes.
    pub cidrs: Vec<IpNet>,
    /// Where other edges dial it; empty if it only dials out.
    pub endpoints: Vec<Endpoint>,
    /// May be empty.
    pub description: String,
    /// Source address of its last session.
    pub address: Option<SocketAddr>,
    /// Version of the state that it applied.
    pub applied: Option<Version>,
    pub cert_expires: Option<Timestamp>,
    /// Version of its software; `null` if never seen.
    pub software: Option<String>,
    /// Its links, from its last report.
    pub links: Vec<Link>,
    /// Edges that it needs no link to.
    pub no_link_to: Vec<String>,
    /// What is wrong; only in `edge show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problems: Option<Vec<Problem>>,
}

/// Whether a controller has a session with an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeStateName {
    Online,
    Offline,
    /// No gateway has joined as this edge.
    NeverSeen,
    /// No controller that answers has a session, and a running one doesn't answer.
    Unknown,
    /// All its certificates are revoked.
    Revoked,
}

/// A link, as one of its ends sees it.
#[derive(Debug, Serialize)]
pub struct Link {
    /// The edge at the other end.
    pub peer: String,
    pub up: bool,
    /// When it last went up or down.
    pub since: Timestamp,
    /// Round-trip time in microseconds; `null` if unknown.
    pub rtt_us: Option<u32>,
    /// Largest UDP payload on the path, in bytes; `null` if unknown.
    pub path_mtu: Option<u16>,
}

impl From<EdgeRow> for Edge {
    fn from(row: EdgeRow) -> Self {
        let (state, since) = match row.state {
            EdgeLiveness::Online { since } => (EdgeStateName::Online, Some(since)),
            EdgeLiveness::Offline { since } => (EdgeStateName::Offline, Some(since)),
            EdgeLiveness::NeverSeen => (EdgeStateName::NeverSeen, None),
            EdgeLiveness::Unknown => (EdgeStateName::Unknown, None),
            EdgeLiveness::Revoked { since } => {
                (EdgeStateName::Revoked, Some(since).filter(|since| *since > 0))
            }
        };
        Self {
            namespace: row.namespace.to_string(),
            name: row.name.to_string(),
            state,
            since: since.map(Timestamp),
            cidrs: row.cidrs,
            endpoints: row.endpoints,
            description: row.description,
            address: row.address,
            applied: row.applied,
            cert_expires: row.cert_expires.map(Timestamp),
            software: Some(row.software).filter(|software| !software.is_empty()),
            links: row.links.into_iter().map(Link::from).collect(),
            no_link_to: row.no_link_to.iter().map(ToString::to_string).collect(),
            problems: None,
        }
    }
}

impl From<LinkReport> for Link {
    fn from(link: LinkReport) -> Self {
        Self {
            peer: link.peer.to_string(),
            up: link.up,
            since: Timestamp(link.since_unix),
            rtt_us: Some(link.rtt_us).filter(|rtt| *rtt != 0),
            path_mtu: Some(link.path_mtu).filter(|mtu| *mtu != 0),
        }
    }
}

impl Edge {
    /// With its problems, for `edge show`.
    pub(crate) fn with_problems(mut row: EdgeRow) -> Self {
        let problems = std::mem::take(&mut row.problems).problems;
        let problems = problems.into_iter().map(Problem::from).collect();
        Self { problems: Some(problems), ..Self::from(row) }
    }

    fn problems_text(&self, color: bool) -> String {
        let mut text = String::new();
        for problem in self.problems.iter().flatten() {
            if text.is_empty() {
                text.push('\n');
            }
            problem.write(&mut text, &self.name, color);
        }
        text
    }

    /// `2/3`: links that are up, and all; `-` without a report.
    fn links_cell(&self) -> Cell {
        let up = self.links.iter().filter(|link| link.up).count();
        match self.links.len() {
            0 => Cell::default(),
            all if up == all => Cell::new(format!("{up}/{all}")),
            all => Cell::new(format!("{up}/{all}")).tone(Tone::Bad),
        }
    }
}

impl Row for Edge {
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "STATE",
        "SINCE",
        "LINKS",
        "CIDR",
        "ENDPOINT",
        "ADDRESS",
        "APPLIED",
        "CERT",
        "SOFTWARE",
        "DESCRIPTION",
        "NO_LINK_TO",
    ];
    const TABLE_COLUMNS: usize = 7;

    fn cells(&self, now: u64) -> Vec<Cell> {
        let (state, tone) = match self.state {
            EdgeStateName::Online => ("online", Tone::Good),
            EdgeStateName::Offline => ("offline", Tone::Bad),
            EdgeStateName::NeverSeen => ("never_seen", Tone::Warning),
            EdgeStateName::Unknown => ("unknown", Tone::Warning),
            EdgeStateName::Revoked => ("revoked", Tone::Bad),
        };
        vec![
            Cell::new(&self.namespace),
            Cell::new(&self.name),
            Cell::new(state).tone(tone),
            Cell::option(self.since.map(|since| since.age(now))),
            self.links_cell(),
            Cell::list(&self.cidrs),
            Cell::list(&self.endpoints),
            Cell::option(self.address),
            Cell::option(self.applied),
            Cell::option(self.cert_expires.map(|expires| expires.left(now))),
            Cell::option(self.software.as_ref()),
            Cell::new(&self.description),
            Cell::list(&self.no_link_to),
        ]
    }

    fn details(&self, now: u64, color: bool) -> String {
        let problems = self.problems_text(color);
        if self.links.is_empty() {
            return problems;
        }
        let mut table = Table::new(["PEER", "LINK", "SINCE", "RTT_MS", "PATH_MTU"]);
        for link in &self.links {
            let (state, tone) = if link.up { ("up", Tone::Good) } else { ("down", Tone::Bad) };
            table.push(vec![
                Cell::new(&link.peer),
                Cell::new(state).tone(tone),
                Cell::new(link.since.age(now)),
                Cell::option(link.rtt_us.map(|rtt| format!("{:.1}", f64::from(rtt) / 1000.0))),
                Cell::option(link.path_mtu),
            ]);
        }
        format!("\n{}{problems}", table.render(color))
    }
}

/// A network behind an edge, besides the edge's own.
#[derive(Debug, Serialize)]
pub struct Route {
    pub namespace: String,
    pub name: String,
    pub cidr: IpNet,
    pub edge: String,
}

impl From<RouteRow> for Route {
    fn from(row: RouteRow) -> Self {
        Self {
            namespace: row.namespace.to_string(),
            name: row.name.to_string(),
            cidr: row.prefix,
            edge: row.edge.to_string(),
        }
    }
}

impl Row for Route {
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "NAME", "CIDR", "EDGE"];
    const TABLE_COLUMNS: usize = 4;

    fn cells(&self, _now: u64) -> Vec<Cell> {
        vec![
            Cell::new(&self.namespace),
            Cell::new(&self.name),
            Cell::new(self.cidr),
            Cell::new(&self.edge),
        ]
    }
}

//! The commands against a controller with prepared answers.

mod answers;
mod audit;
mod ca;
mod changes;
mod files;
mod questions;

use std::{ops::ControlFlow, time::Duration};

use cframe_console::{args::try_parse_from, exit::Exit};
use cframe_protocol::problem::Code;
use cframe_protocol::v1::{
    AdminRow, AuditQuery, AuditRow, Call, CertRow, CertState, Changed, ControllerRow, EdgeLiveness,
    EdgeRow, LinkReport, MeshStatus, NamespaceRow, NamespaceStatus, ProblemExample, ProblemGroup,
    Problems, Progress, RegistrationRow, Reply, RouteRow, Running, Settings, TokenMade, TokenRow,
    Version,
};

use crate::{
    Terminals,
    args::{Cli, Command},
    console::Console,
    controller::Controller,
    failure::Failure,
    session::{Options, Session},
    style,
};

/// 2026-02-01T12:00:00Z.
const NOW: u64 = 1_769_947_200;

/// The result of a command, its output, and its calls.
struct Outcome {
    result: Result<Exit, Failure>,
    out: String,
    err: String,
    calls: Vec<(Call, bool)>,
}

struct Fake<'a> {
    answer: &'a dyn Fn(&Call) -> Result<Vec<Reply>, Failure>,
    calls: &'a mut Vec<(Call, bool)>,
}

impl Fake<'_> {
    /// The pieces of an answer. Every call that is only checked is answered as a change.
    fn answer(&mut self, call: Call, dry_run: bool) -> Result<Vec<Reply>, Failure> {
        let answer = (self.answer)(&call);
        self.calls.push((call, dry_run));
        match answer {
            Ok(answer) if dry_run && !matches!(answer[..], [Reply::Changed(_)]) => {
                Ok(vec![changed()])
            }
            answer => answer,
        }
    }
}

impl Controller for Fake<'_> {
    async fn call(&mut self, call: Call, dry_run: bool) -> Result<Vec<Reply>, Failure> {
        let pieces = self.answer(call, dry_run);
        let mut answer = Vec::new();
        pieces?.into_iter().for_each(|piece| Reply::add_piece(&mut answer, piece));
        std::future::ready(Ok(answer)).await
    }

    async fn watch(&mut self, call: Call, each: &mut dyn FnMut(Reply)) -> Result<(), Failure> {
        self.answer(call, false)?.into_iter().for_each(each);
        std::future::ready(Ok(())).await
    }

    async fn follow(
        &mut self,
        call: Call,
        each: &mut dyn FnMut(Reply) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Failure> {
        let mut pieces = self.answer(call, false)?.into_iter();
        let stopped = pieces.any(|piece| each(piece).is_break());
        let end = if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        std::future::ready(Ok(end)).await
    }

    async fn disconnect(&mut self) {
        std::future::ready(()).await;
    }
}

/// Runs a line against the sample mesh. `typed` is what a person types; `None` without a terminal.
fn run_typed(line: &str, typed: Option<&str>) -> Outcome {
    run_with(line, typed, &sample)
}

fn run(line: &str) -> Outcome {
    run_typed(line, None)
}

fn run_with(
    line: &str,
    typed: Option<&str>,
    answer: &dyn Fn(&Call) -> Result<Vec<Reply>, Failure>,
) -> Outcome {
    let cli: Cli =
        try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}\n{error}"));
    let terminal = typed.is_some();
    let terminals = Terminals { input: terminal, output: false, error: terminal };
    let (mut out, mut err, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        input: &mut typed.unwrap_or("").as_bytes(),
        style: style(&cli.globals, terminals, true),
    };
    let mut session = Session {
        console: &mut console,
        controller: Fake { answer, calls: &mut calls },
        options: Options {
            namespace: cli.globals.namespace.clone(),
            dry_run: cli.globals.dry_run,
            yes: cli.globals.yes,
            wait: cli.globals.wait,
            timeout: cli.globals.timeout.max(Duration::from_secs(1)),
            now: NOW,
        },
        context: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let Command::Mesh(command) = cli.command else { panic!("{line}") };
    let result = runtime.block_on(super::run(&mut session, command));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { result, out: text(out), err: text(err), calls }
}

fn label<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn edge(name: &str, cidr: &str, state: EdgeLiveness) -> EdgeRow {
    EdgeRow {
        namespace: label("prod"),
        name: label(name),
        cidrs: vec![label(cidr)],
        endpoints: Vec::new(),
        description: String::new(),
        state,
        software: String::new(),
        address: None,
        applied: None,
        cert_expires: None,
        links: Vec::new(),
        no_link_to: Vec::new(),
        problems: Problems::default(),
    }
}

fn edges() -> Vec<EdgeRow> {
    let link = |peer: &str, up| LinkReport {
        peer: label(peer),
        up,
        rtt_us: if up { 36_420 } else { 0 },
        path_mtu: if up { 1452 } else { 0 },
        since_unix: NOW - 600,
    };
    let online = EdgeLiveness::Online { since: NOW - 7200 };
    let hk = EdgeRow {
        endpoints: vec![label("203.0.113.7:58423")],
        description: "Hong Kong gateway".into(),
        software: "0.1.0".into(),
        address: Some(label("203.0.113.7:40000")),
        applied: Some(VERSION),
        cert_expires: Some(NOW + 25 * 86_400),
        links: vec![link("aliyun-sz", true)],
        ..edge("aws-hk", "172.30.0.0/16", online)
    };
    // The second part of a row that is too large for one frame.
    let more = EdgeRow { links: vec![link("idc", false)], ..hk.clone() };
    let gone = EdgeLiveness::Offline { since: NOW - 90 };
    vec![
        edge("aliyun-sz", "172.18.0.0/16", gone),
        hk,
        more,
        edge("idc", "10.60.6.0/24", EdgeLiveness::NeverSeen),
    ]
}

fn route() -> RouteRow {
    RouteRow {
        namespace: label("prod"),
        name: label("pods-hk"),
        prefix: label("10.244.0.0/16"),
        edge: label("aws-hk"),
    }
}

fn namespace() -> NamespaceRow {
    NamespaceRow {
        name: label("prod"),
        description: "all that earns money".into(),
        settings: Settings::default(),
        edges: 3,
        routes: 1,
        revision: 7,
    }
}

fn cert(id: &str, serial: &str, not_before: u64, state: CertState) -> CertRow {
    CertRow {
        serial: label(serial),
        id: label(id),
        spki: label(&"5b".repeat(32)),
        not_before,
        not_after: not_before + 30 * 86_400,
        state,
    }
}

const HK_SERIAL: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";

fn certs() -> Vec<CertRow> {
    let hk = "spiffe://corp/ns/prod/edge/aws-hk";
    let revoked = CertState::Revoked { at: NOW - 86_400, reason: "key copied".into() };
    vec![
        cert(hk, &"01".repeat(16), NOW - 10 * 86_400, revoked),
        cert(hk, HK_SERIAL, NOW - 86_400, CertState::Valid),
        cert("spiffe://corp/admin/alice", &"02".repeat(16), NOW - 40 * 86_400, CertState::Expired),
    ]
}

const VERSION: Version = Version { epoch: 1_769_000_000_000, mesh: 2, namespace: 7 };

fn status(problems: Vec<ProblemGroup>) -> MeshStatus {
    MeshStatus {
        mesh: label("corp"),
        controllers: vec![ControllerRow {
            name: label("ctl-1"),
            address: label("203.0.113.1:58422"),
            software: "0.1.0".into(),
            uptime_secs: 93_600,
            store: "embedded, 1.2 MiB".into(),
        }],
        epoch: VERSION.epoch,
        mesh_revision: VERSION.mesh,
        namespaces: vec![NamespaceStatus {
            name: label("prod"),
            edges: 3,
            online: 2,
            in_sync: 2,
            links_up: 1,
            links_expected: 3,
            revision: 7,
        }],
        problems,
    }
}

fn controllers() -> Vec<RegistrationRow> {
    let row = |name: &str, host: &str, running| RegistrationRow {
        name: label(name),
        addresses: vec![label(&format!("{host}:58422"))],
        added: NOW - 86_400,
        issuer: label(&"ab".repeat(32)),
        issuer_expires: NOW + 1000 * 86_400,
        running,
    };
    let running = Running { software: "0.1.0".into(), since: NOW - 3600 };
    vec![row("ctl-1", "203.0.113.1", Some(running)), row("ctl-2", "203.0.113.2", None)]
}

fn changed() -> Reply {
    Reply::Changed(Changed { version: VERSION, warnings: Vec::new() })
}

/// Rows that arrive in several frames.
fn in_pieces(rows: Vec<EdgeRow>) -> Vec<Reply> {
    rows.into_iter().map(|row| Reply::Edges(vec![row])).collect()
}

/// The answers of a mesh with one namespace.
fn sample(call: &Call) -> Result<Vec<Reply>, Failure> {
    let only = |name: &_| edges().into_iter().filter(|edge| edge.name == *name).collect();
    Ok(vec![match call {
        Call::Version => Reply::Version { software: "0.1.0".into(), protocol: 1 },
        Call::Status => Reply::Status(status(Vec::new())),
        Call::NamespaceList | Call::NamespaceShow { .. } => Reply::Namespaces(vec![namespace()]),
        Call::EdgeList { .. } => return Ok(in_pieces(edges())),
        Call::EdgeShow { name, .. } => return Ok(in_pieces(only(name))),
        Call::RouteList { .. } | Call::RouteShow { .. } => Reply::Routes(vec![route()]),
        Call::TokenList { .. } => Reply::Tokens(vec![TokenRow {
            namespace: label("prod"),
            edge: label("idc"),
            id: "5f0c7c1e9d3b4a86a2d1f4be0c9d7e21".into(),
            created: NOW - 60,
            expires: NOW + 3540,
            rejoin: false,
            created_by: "alice".into(),
        }]),
        Call::TokenCreate { .. } => Reply::TokenMade(TokenMade {
            token: "cfj1.c2VjcmV0".into(),
            id: "5f0c7c1e9d3b4a86a2d1f4be0c9d7e21".into(),
            expires: NOW + 3600,
        }),
        Call::CertList { .. } => Reply::Certs(certs()),
        Call::CertShow { serial } => {
            Reply::Certs(certs().into_iter().filter(|cert| cert.serial == *serial).collect())
        }
        Call::AdminList => Reply::Admins(vec![AdminRow {
            name: label("alice"),
            read_only: true,
            not_after: NOW + 86_400,
        }]),
        Call::ControllerList => Reply::Controllers(controllers()),
        Call::ControllerShow { name } => {
            Reply::Controllers(controllers().into_iter().filter(|row| row.name == *name).collect())
        }
        Call::Wait { .. } => {
            return Ok(vec![
                Reply::Progress(Progress { acked: 1, total: 2, waiting: vec![label("idc")] }),
                Reply::Progress(Progress { acked: 2, total: 2, waiting: Vec::new() }),
            ]);
        }
        _ => changed(),
    }])
}

//! Writers that report what they request and what is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cframe_pki::identity::Label;
use cframe_pki::key::PrivateKey;
use cframe_pki::token::JoinToken;
use cframe_pki::verifier::peer_identity;
use cframe_pki::{CertificateDer, Serial};
use cframe_protocol::session::{AdminConnection, enroll};
use cframe_protocol::v1::{Call, Congestion, Enrolled, Reply, TokenMade};
use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// The namespaces that exist from the start, each with one kind of changes.
const NAMESPACES: [&str; 3] = ["routes", "edges", "joins"];
/// The edge of all routes.
const GATEWAY: &str = "gw";

/// What a writer reports. The call and the subject are as the audit log names them.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// It requests a change.
    Requested { call: &'static str, subject: String },
    /// The change was acknowledged. `created` is a key that the controller chose.
    Acknowledged { call: &'static str, subject: String, created: Option<String> },
}

/// Numbers of recorded changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) acknowledged: usize,
    /// Made, but not acknowledged before the kill.
    pub(super) unanswered: usize,
    pub(super) joins: usize,
    pub(super) revocations: usize,
}

pub(super) async fn create_namespaces(admin: &AdminConnection) -> Result<()> {
    for name in NAMESPACES {
        call_once(admin, namespace_add(name)?).await?;
    }
    call_once(admin, edge_add("routes", GATEWAY, 0)?).await.map(drop)
}

/// Starts the writers of a round, which run until they are aborted or the controller ends.
pub(super) fn start(
    admin: AdminConnection,
    round: u32,
    notes: &UnboundedSender<Note>,
) -> JoinSet<Result<()>> {
    let admin = Arc::new(admin);
    let mut tasks = JoinSet::new();
    let writer = |name: &str| Writer {
        admin: Arc::clone(&admin),
        notes: notes.clone(),
        name: format!("{name}{round}"),
    };
    // The first two write to the same namespace.
    tasks.spawn(writer("a").change_routes(2 * round));
    tasks.spawn(writer("b").change_routes(2 * round + 1));
    tasks.spawn(writer("e").change_edges(round));
    tasks.spawn(writer("j").join_and_revoke(round));
    tasks.spawn(writer("n").change_namespaces());
    tasks
}

struct Writer {
    admin: Arc<AdminConnection>,
    notes: UnboundedSender<Note>,
    name: String,
}

impl Writer {
    /// Adds routes, and removes one in three.
    async fn change_routes(self, block: u32) -> Result<()> {
        for index in 0.. {
            let name = format!("{}-{index}", self.name);
            let prefix = format!("fd01:{block:x}:{index:x}::/64").parse()?;
            let (namespace, route) = (label("routes")?, label(&name)?);
            let subject = format!("routes/{name}");
            let add = Call::RouteAdd {
                namespace: namespace.clone(),
                name: route.clone(),
                prefix,
                edge: label(GATEWAY)?,
            };
            self.change(add, &subject).await?;
            if index % 3 == 0 {
                self.change(Call::RouteDel { namespace, name: route }, &subject).await?;
            }
        }
        Ok(())
    }

    /// Adds edges, changes each twice, and removes one in two.
    async fn change_edges(self, block: u32) -> Result<()> {
        for index in 0u32.. {
            let name = format!("{}-{index}", self.name);
            let subject = format!("edges/{name}");
            let number = block * 1000 + index + 1;
            self.change(edge_add("edges", &name, number)?, &subject).await?;
            let (namespace, edge) = (label("edges")?, label(&name)?);
            let prefixes = vec![prefix(0xfd02, number)?, prefix(0xfd03, number)?];
            for (cidrs, description) in [(None, Some("changed")), (Some(prefixes), None)] {
                let set = Call::EdgeSet {
                    namespace: namespace.clone(),
                    name: edge.clone(),
                    cidrs,
                    endpoints: None,
                    description: description.map(str::to_owned),
                    no_link_to: None,
                };
                self.change(set, &subject).await?;
            }
            if index % 2 == 0 {
                self.change(Call::EdgeDel { namespace, name: edge }, &subject).await?;
            }
        }
        Ok(())
    }

    /// Creates tokens, joins with them, and revokes the certificates.
    async fn join_and_revoke(self, block: u32) -> Result<()> {
        for index in 0u32.. {
            let name = format!("{}-{index}", self.name);
            let subject = format!("joins/{name}");
            self.change(edge_add("joins", &name, block * 1000 + index + 1)?, &subject).await?;
            let (namespace, edge) = (label("joins")?, label(&name)?);
            let create = Call::TokenCreate { namespace, edge, ttl_secs: 3600, rejoin: false };
            let Reply::TokenMade(made) = self.change(create, &subject).await? else {
                anyhow::bail!("token-create was not answered with a token");
            };
            let serial = self.join(&made, &subject).await?;
            let revoke = Call::CertRevoke { serial, reason: "a test".to_owned() };
            self.change(revoke, &serial.to_string()).await?;
        }
        Ok(())
    }

    /// Adds namespaces, changes them, and removes three in four.
    async fn change_namespaces(self) -> Result<()> {
        for index in 0u32.. {
            let name = format!("{}-{index}", self.name);
            self.change(namespace_add(&name)?, &name).await?;
            let set = Call::NamespaceSet {
                name: label(&name)?,
                tun_mtu: Some(1300),
                congestion: Some(Congestion::Bbr),
            };
            self.change(set, &name).await?;
            if index % 4 != 0 {
                let del = Call::NamespaceDel { name: label(&name)?, cascade: false };
                self.change(del, &name).await?;
            }
        }
        Ok(())
    }

    async fn change(&self, call: Call, subject: &str) -> Result<Reply> {
        let name = call.name();
        self.note_request(name, subject);
        let reply = call_once(&self.admin, call).await?;
        let created = if let Reply::TokenMade(token) = &reply {
            Some(format!("tokens/{}", token.id))
        } else {
            None
        };
        self.note_acknowledgement(name, subject, created);
        Ok(reply)
    }

    async fn join(&self, made: &TokenMade, subject: &str) -> Result<Serial> {
        let token: JoinToken = made.token.parse()?;
        let csr = PrivateKey::generate()?.csr()?.to_vec();
        self.note_request("join", subject);
        let Enrolled { chain, .. } = enroll(&token, csr, None, JOIN_TIMEOUT).await?;
        let leaf = chain.into_iter().next().map(CertificateDer::from).context("no certificate")?;
        let serial = peer_identity(&[leaf])?.serial;
        self.note_acknowledgement("join", subject, Some(format!("certs/{serial}")));
        Ok(serial)
    }

    fn note_request(&self, call: &'static str, subject: &str) {
        let _ = self.notes.send(Note::Requested { call, subject: subject.to_owned() });
    }

    fn note_acknowledgement(&self, call: &'static str, subject: &str, created: Option<String>) {
        let subject = subject.to_owned();
        let _ = self.notes.send(Note::Acknowledged { call, subject, created });
    }
}

async fn call_once(admin: &AdminConnection, call: Call) -> Result<Reply> {
    let replies = admin.call(call, false).await?.collect().await?;
    replies.into_iter().next().context("an empty reply")
}

fn namespace_add(name: &str) -> Result<Call> {
    let (settings, description) = (Default::default(), String::new());
    Ok(Call::NamespaceAdd { name: label(name)?, settings, description })
}

fn edge_add(namespace: &str, name: &str, number: u32) -> Result<Call> {
    Ok(Call::EdgeAdd {
        namespace: label(namespace)?,
        name: label(name)?,
        cidrs: vec![prefix(0xfd02, number)?],
        endpoints: vec![format!("{name}.example.com:58423").parse()?],
        description: String::new(),
    })
}

/// The IPv6 /64 with this number below a /16.
fn prefix(first: u16, number: u32) -> Result<IpNet> {
    Ok(format!("{first:x}:{:x}:{:x}::/64", number >> 16, number & 0xffff).parse()?)
}

fn label(name: &str) -> Result<Label> {
    Ok(name.parse()?)
}

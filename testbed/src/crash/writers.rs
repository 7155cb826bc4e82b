//! Writers that note what they ask for and what they are told.

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
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

/// How long a join is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The namespaces that are there from the start.
const NAMESPACES: [&str; 3] = ["routes", "edges", "joins"];
/// Edges with routes.
const GATEWAY: &str = "gw";

/// What a writer has to say.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// It asks for a change: the call and what it is about, as the audit log names them.
    Asked(&'static str, String),
    /// It was told that the change is made, of the same; and which key was made of which it knew nothing before.
    Told(&'static str, String, Option<String>),
}

/// How many changes there were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) acknowledged: usize,
    /// Not acknowledged, and there all the same.
    pub(super) unanswered: usize,
    pub(super) joins: usize,
    pub(super) revocations: usize,
}

/// The writers of one round.
pub(super) struct Round(JoinSet<Result<()>>);

impl Round {
    /// Ends them all, wherever they are.
    pub(super) fn abort(mut self) {
        self.0.abort_all();
    }
}

/// What all rounds begin with.
pub(super) async fn prepare(admin: &AdminConnection) -> Result<()> {
    for name in NAMESPACES {
        ask(admin, namespace_add(name)?).await?;
    }
    ask(admin, edge_add("routes", GATEWAY, 0)?).await.map(drop)
}

/// Has writers write until they are ended, or the controller is.
pub(super) fn start(admin: AdminConnection, round: u32, notes: &UnboundedSender<Note>) -> Round {
    let admin = Arc::new(admin);
    let mut tasks = JoinSet::new();
    let writer = |name: &str| Writer {
        admin: Arc::clone(&admin),
        notes: notes.clone(),
        name: format!("{name}{round}"),
    };
    // Two in each other's way, the others beside them.
    tasks.spawn(writer("a").routes(2 * round));
    tasks.spawn(writer("b").routes(2 * round + 1));
    tasks.spawn(writer("e").edges(round));
    tasks.spawn(writer("j").joins(round));
    tasks.spawn(writer("n").namespaces());
    Round(tasks)
}

struct Writer {
    admin: Arc<AdminConnection>,
    notes: UnboundedSender<Note>,
    name: String,
}

impl Writer {
    /// Adds routes, and removes one in three again.
    async fn routes(self, block: u32) -> Result<()> {
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

    /// Adds edges, changes them twice, and removes one in two.
    async fn edges(self, block: u32) -> Result<()> {
        for index in 0u32.. {
            let name = format!("{}-{index}", self.name);
            let subject = format!("edges/{name}");
            let place = block * 1000 + index + 1;
            self.change(edge_add("edges", &name, place)?, &subject).await?;
            let (namespace, edge) = (label("edges")?, label(&name)?);
            for (cidrs, description) in [(None, Some("changed")), (Some(place), None)] {
                let more = |place| [0xfd02, 0xfd03].map(|first| prefix(first, place));
                let cidrs = match cidrs {
                    Some(place) => Some(more(place).into_iter().collect::<Result<Vec<_>>>()?),
                    None => None,
                };
                let set = Call::EdgeSet {
                    namespace: namespace.clone(),
                    name: edge.clone(),
                    cidrs,
                    endpoints: None,
                    description: description.map(str::to_owned),
                };
                self.change(set, &subject).await?;
            }
            if index % 2 == 0 {
                self.change(Call::EdgeDel { namespace, name: edge }, &subject).await?;
            }
        }
        Ok(())
    }

    /// Makes tokens, joins with them, and revokes the certificates.
    async fn joins(self, block: u32) -> Result<()> {
        for index in 0u32.. {
            let name = format!("{}-{index}", self.name);
            let subject = format!("joins/{name}");
            self.change(edge_add("joins", &name, block * 1000 + index + 1)?, &subject).await?;
            let (namespace, edge) = (label("joins")?, label(&name)?);
            let create = Call::TokenCreate { namespace, edge, ttl_secs: 3600, rejoin: false };
            let Reply::TokenMade(made) = self.change(create, &subject).await? else {
                anyhow::bail!("no token");
            };
            let serial = self.join(&made, &subject).await?;
            let revoke = Call::CertRevoke { serial, reason: "a test".to_owned() };
            self.change(revoke, &serial.to_string()).await?;
        }
        Ok(())
    }

    /// Adds namespaces, changes them, and removes them.
    async fn namespaces(self) -> Result<()> {
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
        let _ = self.notes.send(Note::Asked(name, subject.to_owned()));
        let reply = ask(&self.admin, call).await?;
        let made = if let Reply::TokenMade(made) = &reply {
            Some(format!("tokens/{}", made.id))
        } else {
            None
        };
        let _ = self.notes.send(Note::Told(name, subject.to_owned(), made));
        Ok(reply)
    }

    async fn join(&self, made: &TokenMade, subject: &str) -> Result<Serial> {
        let token: JoinToken = made.token.parse()?;
        let csr = PrivateKey::generate()?.csr()?.to_vec();
        let _ = self.notes.send(Note::Asked("join", subject.to_owned()));
        let Enrolled { chain, .. } = enroll(&token, csr, None, PATIENCE).await?;
        let leaf = chain.into_iter().next().map(CertificateDer::from).context("no certificate")?;
        let serial = peer_identity(&[leaf])?.serial;
        let made = Some(format!("certs/{serial}"));
        let _ = self.notes.send(Note::Told("join", subject.to_owned(), made));
        Ok(serial)
    }
}

async fn ask(admin: &AdminConnection, call: Call) -> Result<Reply> {
    let replies = admin.call(call, false).await?.collect().await?;
    replies.into_iter().next().context("an empty answer")
}

fn namespace_add(name: &str) -> Result<Call> {
    let (settings, description) = (Default::default(), String::new());
    Ok(Call::NamespaceAdd { name: label(name)?, settings, description })
}

fn edge_add(namespace: &str, name: &str, place: u32) -> Result<Call> {
    Ok(Call::EdgeAdd {
        namespace: label(namespace)?,
        name: label(name)?,
        cidrs: vec![prefix(0xfd02, place)?],
        endpoints: vec![format!("{name}.example.com:58423").parse()?],
        description: String::new(),
    })
}

/// Another one for each place.
fn prefix<T: std::str::FromStr>(first: u16, place: u32) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    Ok(format!("{first:x}:{:x}:{:x}::/64", place >> 16, place & 0xffff).parse()?)
}

fn label(name: &str) -> Result<Label> {
    Ok(name.parse()?)
}

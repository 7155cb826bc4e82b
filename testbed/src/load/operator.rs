//! Admin calls, one or many.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use cframe_controller::cli::Contexts;
use cframe_pki::CertificateDer;
use cframe_pki::bundle::TrustBundle;
use cframe_pki::identity::Label;
use cframe_pki::key::PrivateKey;
use cframe_pki::tls::Credentials;
use cframe_protocol::session::{AdminConnection, Client};
use cframe_protocol::v1::{Call, Changed, MeshStatus, Reply, Version};
use rustls::pki_types::pem::PemObject;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::identities::client;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Connections for many calls at once, and the calls of each: what the controller allows.
const CONNECTIONS: usize = 8;
const AT_ONCE: usize = 8;

/// An admin's connection.
pub(super) struct Operator {
    client: Client,
    connection: AdminConnection,
}

impl Operator {
    /// The admin of a file of contexts.
    pub(super) async fn connect(contexts: &Path) -> Result<Self> {
        let client = admin(contexts)?;
        let connection = AdminConnection::connect(&client).await?;
        Ok(Self { client, connection })
    }

    /// After the controller was restarted.
    pub(super) async fn connect_again(&mut self) -> Result<()> {
        self.connection = AdminConnection::connect(&self.client).await?;
        Ok(())
    }

    /// Makes a call that has one reply.
    pub(super) async fn call(&self, call: Call) -> Result<Reply> {
        one(&self.connection, call).await
    }

    /// Makes a change, and says which version has it.
    pub(super) async fn change(&self, call: Call) -> Result<Version> {
        let name = call.name();
        let Reply::Changed(Changed { version, .. }) = self.call(call).await? else {
            bail!("the answer to {name} is none")
        };
        Ok(version)
    }

    pub(super) async fn status(&self) -> Result<MeshStatus> {
        let Reply::Status(status) = self.call(Call::Status).await? else {
            bail!("the answer to status is none")
        };
        Ok(status)
    }

    /// The newest version of a namespace.
    pub(super) async fn version(&self, namespace: &Label) -> Result<Version> {
        let status = self.status().await?;
        let row = status.namespaces.iter().find(|row| row.name == *namespace);
        let row = row.with_context(|| format!("no namespace {namespace}"))?;
        Ok(Version { epoch: status.epoch, mesh: status.mesh_revision, namespace: row.revision })
    }

    /// Waits until the connected edges of a namespace have acknowledged a version; says how many they are.
    pub(super) async fn wait(&self, namespace: &Label, version: Version) -> Result<u32> {
        let namespace = namespace.clone();
        let call = Call::Wait { namespace, version, timeout_secs: 60 };
        let mut replies = self.connection.call(call, false).await?;
        let mut total = 0;
        while let Some(reply) = timeout(PATIENCE, replies.next()).await?? {
            if let Reply::Progress(progress) = reply {
                total = progress.total;
            }
        }
        Ok(total)
    }

    /// Makes many calls, each with one reply, several at once; replies come in the order of the calls.
    pub(super) async fn bulk(&self, calls: Vec<Call>) -> Result<Vec<Reply>> {
        let count = calls.len();
        let (calls, next) = (Arc::new(calls), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..CONNECTIONS.min(count.div_ceil(AT_ONCE)) {
            let connection = Arc::new(AdminConnection::connect(&self.client).await?);
            for _ in 0..AT_ONCE {
                let (connection, calls, next) = (connection.clone(), calls.clone(), next.clone());
                workers.spawn(async move {
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(call) = calls.get(index) else { break };
                        done.push((index, one(&connection, call.clone()).await?));
                    }
                    anyhow::Ok(done)
                });
            }
        }
        let mut replies = Vec::with_capacity(count);
        while let Some(done) = workers.join_next().await {
            replies.extend(done??);
        }
        replies.sort_by_key(|(index, _)| *index);
        Ok(replies.into_iter().map(|(_, reply)| reply).collect())
    }
}

async fn one(connection: &AdminConnection, call: Call) -> Result<Reply> {
    let name = call.name();
    let answered = async { connection.call(call, false).await?.collect().await };
    let replies =
        timeout(PATIENCE, answered).await.with_context(|| format!("{name} takes long"))?;
    let mut replies = replies.with_context(|| name.to_owned())?.into_iter();
    match (replies.next(), replies.next()) {
        (Some(reply), None) => Ok(reply),
        _ => Err(anyhow!("{name} has not one reply")),
    }
}

fn admin(contexts: &Path) -> Result<Client> {
    let mut contexts = Contexts::load(contexts)?;
    let current = contexts.current.take().context("no current context")?;
    let context = contexts.contexts.remove(&current).context("no such context")?;
    let credentials = Credentials {
        chain: certificates(&context.certificate)?,
        key: PrivateKey::from_pem(context.key.as_bytes())?,
    };
    let bundle = TrustBundle { roots: certificates(&context.trust)?, ..TrustBundle::default() };
    let controllers =
        context.controllers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    client(&credentials, &bundle, controllers)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}

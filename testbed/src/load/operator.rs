//! Admin calls, one at a time or many in parallel.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use cframe_pki::identity::Label;
use cframe_protocol::session::{AdminConnection, Client};
use cframe_protocol::v1::{Call, Changed, MeshStatus, Reply, Version};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::admin_client;

const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Connections for parallel calls, and calls on each: as many as the controller allows.
const CONNECTIONS: usize = 8;
const CALLS_PER_CONNECTION: usize = 8;

/// An admin's connection.
pub(super) struct Operator {
    client: Client,
    connection: AdminConnection,
}

impl Operator {
    /// Connects as the admin of a file of contexts.
    pub(super) async fn connect(contexts: &Path) -> Result<Self> {
        let client = admin_client(contexts)?;
        let connection = AdminConnection::connect(&client).await?;
        Ok(Self { client, connection })
    }

    /// Connects again after a restart of the controller.
    pub(super) async fn reconnect(&mut self) -> Result<()> {
        self.connection = AdminConnection::connect(&self.client).await?;
        Ok(())
    }

    /// Makes a call that has one reply.
    pub(super) async fn call(&self, call: Call) -> Result<Reply> {
        call_once(&self.connection, call).await
    }

    /// Makes a change, and returns the version that contains it.
    pub(super) async fn change(&self, call: Call) -> Result<Version> {
        let name = call.name();
        let Reply::Changed(Changed { version, .. }) = self.call(call).await? else {
            bail!("{name} was not answered with a version")
        };
        Ok(version)
    }

    pub(super) async fn status(&self) -> Result<MeshStatus> {
        let Reply::Status(status) = self.call(Call::Status).await? else {
            bail!("status was not answered with a status")
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

    /// Waits until all connected edges of a namespace have acknowledged `version`.
    pub(super) async fn wait(&self, namespace: &Label, version: Version) -> Result<()> {
        let namespace = namespace.clone();
        let call = Call::Wait { namespace, version, timeout_secs: 60 };
        let mut replies = self.connection.call(call, false).await?;
        while timeout(CALL_TIMEOUT, replies.next()).await??.is_some() {}
        Ok(())
    }

    /// Makes many calls in parallel, each with one reply; returns the replies in the order of the calls.
    pub(super) async fn call_all(&self, calls: Vec<Call>) -> Result<Vec<Reply>> {
        let count = calls.len();
        let (calls, next) = (Arc::new(calls), Arc::new(AtomicUsize::new(0)));
        let mut workers = JoinSet::new();
        for _ in 0..CONNECTIONS.min(count.div_ceil(CALLS_PER_CONNECTION)) {
            let connection = Arc::new(AdminConnection::connect(&self.client).await?);
            for _ in 0..CALLS_PER_CONNECTION {
                let (connection, calls, next) = (connection.clone(), calls.clone(), next.clone());
                workers.spawn(async move {
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(call) = calls.get(index) else { break };
                        done.push((index, call_once(&connection, call.clone()).await?));
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

async fn call_once(connection: &AdminConnection, call: Call) -> Result<Reply> {
    let name = call.name();
    let replies = async { connection.call(call, false).await?.collect().await };
    let replies = timeout(CALL_TIMEOUT, replies).await;
    let replies = replies.with_context(|| format!("{name} timed out"))?;
    let mut replies = replies.with_context(|| name.to_owned())?.into_iter();
    match (replies.next(), replies.next()) {
        (Some(reply), None) => Ok(reply),
        _ => Err(anyhow!("{name} did not have exactly one reply")),
    }
}

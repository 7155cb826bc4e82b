//! The local socket, mode 0600 in the data directory: anyone who can open it can also read the CA's key beside it, so
//! nothing more is checked. A connection is one request of one line; its answer ends with the connection.
//!
//! - `backup 1`: a dump of the running controller's store. No keys go over the socket; `backup` reads them from their
//!   files.
//! - `admin 1 NAME read-only|full CSR`: a certificate for a new or an existing admin, in JSON: for an admin whose own
//!   certificate has expired.
//! - `issuer 1 FINGERPRINT careful|force`: sign with that issuing CA of the data directory from now on; warnings, in
//!   JSON.

use std::{io, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cframe_pki::{Fingerprint, identity::Label};
use cframe_protocol::v1::AdminEnrolled;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Act, Who},
    backup,
    context::Context,
    decide::{admin, call::Lane, check::conflict},
    keys::issuer::{leaf_serial, verify_csr},
    model::State,
    upkeep::{certificate::RenewError, rotation},
};

/// The socket's name in the data directory.
pub const FILE: &str = "controller.sock";

const BACKUP: &str = "backup 1";
const ADMIN: &str = "admin 1 ";
const ISSUER: &str = "issuer 1 ";
/// Bytes.
const MAX_REQUEST: u64 = 16 * 1024;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Binds the socket, and replaces one that nobody answers on. The directory must be private.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::{fs::PermissionsExt, net::UnixStream};
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another controller is running on this directory",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory is 0700, so nobody could connect before this.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Requests a dump from the running controller; `None` if none is running.
pub async fn request_backup(path: &Path) -> io::Result<Option<Vec<u8>>> {
    request_answer(path, BACKUP).await
}

/// Requests an admin's certificate from the running controller; `None` if none is running.
pub async fn request_admin(
    path: &Path,
    name: &Label,
    read_only: bool,
    csr: &[u8],
) -> io::Result<Option<AdminEnrolled>> {
    let kind = if read_only { READ_ONLY } else { FULL };
    let request = format!("{ADMIN}{name} {kind} {}", STANDARD.encode(csr));
    parse_answer(request_answer(path, &request).await?)
}

/// Has the running controller sign with another issuing CA, and returns its warnings; `None` if none is running.
pub async fn request_issuer(
    path: &Path,
    fingerprint: Fingerprint,
    force: bool,
) -> io::Result<Option<Vec<String>>> {
    let how = if force { FORCE } else { CAREFUL };
    parse_answer(request_answer(path, &format!("{ISSUER}{fingerprint} {how}")).await?)
}

fn parse_answer<T: DeserializeOwned>(answer: Option<Vec<u8>>) -> io::Result<Option<T>> {
    let Some(answer) = answer else { return Ok(None) };
    let answer: Result<T, String> = serde_json::from_slice(&answer).map_err(io::Error::other)?;
    answer.map(Some).map_err(io::Error::other)
}

const CAREFUL: &str = "careful";
const FORCE: &str = "force";
const READ_ONLY: &str = "read-only";
const FULL: &str = "full";

async fn request_answer(path: &Path, request: &str) -> io::Result<Option<Vec<u8>>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.write_all(format!("{request}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.is_empty() {
        return Err(io::Error::other("the controller sent no answer; see its log"));
    }
    Ok(Some(answer))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Serves until stopped.
pub(crate) async fn serve(context: Arc<Context>, listener: UnixListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else { continue };
        let context = Arc::clone(&context);
        connections.spawn(async move {
            match timeout(TIMEOUT, answer(&context, stream)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a request on the local socket failed"),
                Err(_) => tracing::warn!("a request on the local socket timed out"),
            }
        });
    }
}

async fn answer(context: &Arc<Context>, stream: UnixStream) -> anyhow::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_REQUEST)).read_line(&mut line).await?;
    let line = line.trim_end();
    let answer = if line == BACKUP {
        let dump = backup::dump(&**context.replica.store(), context.replica.now()).await?;
        context.replica.record_outcome(&Act::new(Who::Local(uid), "backup"), None);
        dump
    } else if let Some(wanted) = line.strip_prefix(ADMIN) {
        let result = issue_admin(context, uid, wanted).await.map_err(|error| format!("{error:#}"));
        serde_json::to_vec(&result)?
    } else if let Some(wanted) = line.strip_prefix(ISSUER) {
        let result = use_issuer(context, uid, wanted).await.map_err(|error| format!("{error:#}"));
        serde_json::to_vec(&result)?
    } else {
        anyhow::bail!("unknown request {:?}", line.chars().take(40).collect::<String>());
    };
    writer.write_all(&answer).await?;
    writer.shutdown().await?;
    Ok(())
}

async fn use_issuer(context: &Arc<Context>, uid: u32, wanted: &str) -> anyhow::Result<Vec<String>> {
    let parts: Vec<&str> = wanted.split(' ').collect();
    let [fingerprint, how @ (CAREFUL | FORCE)] = parts.as_slice() else {
        anyhow::bail!("expected FINGERPRINT {CAREFUL}|{FORCE}");
    };
    let fingerprint: Fingerprint = fingerprint.parse()?;
    let mut act = Act::new(Who::Local(uid), "ca-use");
    act.subject = fingerprint.to_string();
    let result = rotation::sign_with(context, fingerprint, *how == FORCE, &act).await;
    let refusal = result.as_ref().err().map(|error| match error.downcast_ref() {
        Some(RenewError::Call(error)) => error.clone(),
        _ => conflict(format!("{error:#}")),
    });
    context.replica.record_outcome(&act, refusal.as_ref());
    result
}

async fn issue_admin(context: &Context, uid: u32, wanted: &str) -> anyhow::Result<AdminEnrolled> {
    let parts: Vec<&str> = wanted.split(' ').collect();
    let [name, kind @ (READ_ONLY | FULL), csr] = parts.as_slice() else {
        anyhow::bail!("expected NAME {READ_ONLY}|{FULL} CSR");
    };
    let name: Label = name.parse()?;
    let csr = verify_csr(&STANDARD.decode(csr)?)?;
    let mut act = Act::new(Who::Local(uid), "admin-add");
    act.subject = name.to_string();
    let replica = &context.replica;
    let issuer = context.issuer.current();
    let decide = |state: &State| {
        // As if the admin renewed its own certificate.
        admin::add(state, &issuer, (&name, *kind == READ_ONLY), &csr, &name, replica.now())
    };
    let written = replica.write(&Lane::Admin(name.clone()), &act, decide).await;
    let result = written.map(|(_, enrolled)| enrolled);
    context.replica.record_outcome(&act, result.as_ref().err());
    let enrolled = result?;
    let serial = leaf_serial(&enrolled.chain);
    tracing::info!(admin = %name, serial, "issued a certificate to an admin, by the local socket");
    Ok(enrolled)
}

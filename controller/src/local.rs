//! The local socket, mode 0600 in the data directory: whoever may open it may read the CA's key beside it, and
//! is asked for nothing else. One line asks, the answer's end is the connection's.
//!
//! - `backup 1`: a dump of the running controller's store. No key goes over the socket; `backup` reads those
//!   from their files.
//! - `admin 1 NAME read-only|full CSR`: a certificate for an admin, new or there already, in JSON: the way
//!   back in for whoever let theirs expire.
//! - `issuer 1 FINGERPRINT careful|force`: sign with that issuing CA of the data directory from now on; what
//!   to look at twice, in JSON.

use std::{io, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cframe_pki::{Fingerprint, identity::Label};
use cframe_protocol::v1::AdminEnrolled;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{Act, Who},
    backup, calls,
    check::conflict,
    issuing::{RenewError, verify_csr},
    rotation,
    server::Context,
};

/// The socket's name in the data directory.
pub const FILE: &str = "controller.sock";

const BACKUP: &str = "backup 1";
const ADMIN: &str = "admin 1 ";
const ISSUER: &str = "issuer 1 ";
/// The longest request, and the longest that one may take.
const LONGEST: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// Binds the socket, in place of one that nobody answers on. The directory must be private.
///
/// # Errors
/// If another controller answers on it, or the system refuses.
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
    // The directory is 0700, so that nobody came in before this.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Asks a running controller for a dump; `None` if none is running.
///
/// # Errors
/// If one is and does not answer as it should.
pub async fn ask_backup(path: &Path) -> io::Result<Option<Vec<u8>>> {
    ask(path, BACKUP).await
}

/// Asks a running controller for an admin's certificate; `None` if none is running.
///
/// # Errors
/// If one is and does not answer as it should, or refuses.
pub async fn ask_admin(
    path: &Path,
    name: &Label,
    read_only: bool,
    csr: &[u8],
) -> io::Result<Option<AdminEnrolled>> {
    let kind = if read_only { READ_ONLY } else { FULL };
    let request = format!("{ADMIN}{name} {kind} {}", STANDARD.encode(csr));
    let Some(answer) = ask(path, &request).await? else { return Ok(None) };
    let answer: Result<AdminEnrolled, String> =
        serde_json::from_slice(&answer).map_err(io::Error::other)?;
    answer.map(Some).map_err(io::Error::other)
}

/// Has a running controller sign with another issuing CA; `None` if none is running. Answers with what to
/// look at twice.
///
/// # Errors
/// If one is and does not answer as it should, or refuses.
pub async fn ask_issuer(
    path: &Path,
    fingerprint: Fingerprint,
    force: bool,
) -> io::Result<Option<Vec<String>>> {
    let how = if force { FORCE } else { CAREFUL };
    let Some(answer) = ask(path, &format!("{ISSUER}{fingerprint} {how}")).await? else {
        return Ok(None);
    };
    let answer: Result<Vec<String>, String> =
        serde_json::from_slice(&answer).map_err(io::Error::other)?;
    answer.map(Some).map_err(io::Error::other)
}

const CAREFUL: &str = "careful";
const FORCE: &str = "force";
const READ_ONLY: &str = "read-only";
const FULL: &str = "full";

async fn ask(path: &Path, request: &str) -> io::Result<Option<Vec<u8>>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.write_all(format!("{request}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if answer.is_empty() {
        return Err(io::Error::other("the controller gives no answer; its log says why"));
    }
    Ok(Some(answer))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Serves until stopped.
pub(crate) async fn serve(context: Arc<Context>, listener: UnixListener, stop: CancellationToken) {
    let mut asked = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while asked.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else { continue };
        let context = Arc::clone(&context);
        asked.spawn(async move {
            match timeout(PATIENCE, answer(&context, stream)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a request was not answered"),
                Err(_) => tracing::warn!("an answer was not taken in time"),
            }
        });
    }
}

async fn answer(context: &Arc<Context>, stream: UnixStream) -> anyhow::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST)).read_line(&mut line).await?;
    let line = line.trim_end();
    let answer = if line == BACKUP {
        let dump = backup::dump(&**context.mesh.store(), context.mesh.now()).await?;
        context.mesh.settle(&Act::new(Who::Local(uid), "backup"), None);
        dump
    } else if let Some(wanted) = line.strip_prefix(ADMIN) {
        let result = admin(context, uid, wanted).await.map_err(|error| format!("{error:#}"));
        serde_json::to_vec(&result)?
    } else if let Some(wanted) = line.strip_prefix(ISSUER) {
        let result = issuer(context, uid, wanted).await.map_err(|error| format!("{error:#}"));
        serde_json::to_vec(&result)?
    } else {
        anyhow::bail!("the request {:?} is not known", line.chars().take(40).collect::<String>());
    };
    writer.write_all(&answer).await?;
    writer.shutdown().await?;
    Ok(())
}

async fn issuer(context: &Arc<Context>, uid: u32, wanted: &str) -> anyhow::Result<Vec<String>> {
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
    context.mesh.settle(&act, refusal.as_ref());
    result
}

async fn admin(context: &Context, uid: u32, wanted: &str) -> anyhow::Result<AdminEnrolled> {
    let parts: Vec<&str> = wanted.split(' ').collect();
    let [name, kind @ (READ_ONLY | FULL), csr] = parts.as_slice() else {
        anyhow::bail!("expected NAME {READ_ONLY}|{FULL} CSR");
    };
    let name: Label = name.parse()?;
    let csr = verify_csr(&STANDARD.decode(csr)?)?;
    let mut act = Act::new(Who::Local(uid), "admin-add");
    act.subject = name.to_string();
    let result = calls::local_admin(context, &act, &name, *kind == READ_ONLY, &csr).await;
    context.mesh.settle(&act, result.as_ref().err());
    let enrolled = result?;
    let serial = crate::issuing::serial(&enrolled.chain);
    tracing::info!(admin = %name, serial, "a certificate was made for an admin, by the local socket");
    Ok(enrolled)
}

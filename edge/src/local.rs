//! The local socket: a request is one line of JSON, and so is the response.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::debug;

use crate::{problem::Report, status::Status};

/// In bytes.
const MAX_REQUEST: u64 = 1024;
/// In bytes: enough for thousands of links.
const MAX_RESPONSE: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Connections at the same time.
const MAX_CLIENTS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Checks everything now.
    Doctor,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    Status(Box<Status>),
    Doctor(Report),
    Error(String),
}

/// A request, and the channel for its response.
#[derive(Debug)]
pub struct Call {
    pub request: Request,
    pub reply: oneshot::Sender<Response>,
}

/// Why the running process could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("cframe-edge isn't running: no process listens on {}", .0.display())]
    NotRunning(PathBuf),
    #[error("not allowed to use {}: run this as root or as the user that runs cframe-edge", .0.display())]
    NotAllowed(PathBuf),
    #[error("no response from {}", .0.display())]
    Failed(PathBuf, #[source] io::Error),
    /// The process has refused, for this reason.
    #[error("{0}")]
    Refused(String),
}

/// The listening socket. Its file is removed with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens with mode 0600, replacing a file that an earlier process has left.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent()
            && !parent.exists()
        {
            cframe_pki::files::ensure_private_dir(parent).map_err(io::Error::other)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // A client that connects between the next two calls is refused after `accept`.
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until it is dropped.
    pub async fn run(self, calls: mpsc::Sender<Call>) {
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = tokio::task::JoinSet::new();
        while let Ok(permit) = Arc::clone(&slots).acquire_owned().await {
            while clients.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) if !is_allowed(&stream) => {
                    debug!("a client of another user at the local socket");
                }
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    clients.spawn(async move {
                        if timeout(TIMEOUT, serve(stream, calls)).await.is_err() {
                            debug!("a local client was too slow");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    debug!(%error, "accept on the local socket");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
}

/// Root and the user of this process. The file's mode says the same, but it is set a moment after the
/// socket is there.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| [0, own].contains(&peer.uid()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // If the file stays, a client is refused and reports "not running" as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => call(request, &calls).await,
        Err(error) => Response::Error(format!("not a request: {error}")),
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Has the process answer a request.
pub(crate) async fn call(request: Request, calls: &mpsc::Sender<Call>) -> Response {
    let (reply, response) = oneshot::channel();
    if calls.send(Call { request, reply }).await.is_err() {
        return Response::Error("cframe-edge is stopping".to_owned());
    }
    response.await.unwrap_or_else(|_| Response::Error("cframe-edge is stopping".to_owned()))
}

/// Asks the running process for its status.
pub async fn status(path: &Path) -> Result<Status, AskError> {
    match ask(path, Request::Status).await? {
        Response::Status(status) => Ok(*status),
        Response::Doctor(_) | Response::Error(_) => Err(unexpected(path)),
    }
}

/// Has the running process check everything.
pub async fn doctor(path: &Path) -> Result<Report, AskError> {
    match ask(path, Request::Doctor).await? {
        Response::Doctor(report) => Ok(report),
        Response::Status(_) | Response::Error(_) => Err(unexpected(path)),
    }
}

fn unexpected(path: &Path) -> AskError {
    AskError::Failed(path.to_owned(), io::ErrorKind::InvalidData.into())
}

async fn ask(path: &Path, request: Request) -> Result<Response, AskError> {
    let response = timeout(TIMEOUT, send(path, request)).await;
    let failed = |error| AskError::Failed(path.to_owned(), error);
    match response.map_err(|_| failed(io::ErrorKind::TimedOut.into()))? {
        Ok(Response::Error(text)) => Err(AskError::Refused(text)),
        Ok(response) => Ok(response),
        Err(error) => {
            let kind = error.kind();
            let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
            Err(match kind == io::ErrorKind::PermissionDenied {
                true => AskError::NotAllowed(path.to_owned()),
                false if gone.contains(&kind) => AskError::NotRunning(path.to_owned()),
                false => failed(error),
            })
        }
    }
}

async fn send<T: DeserializeOwned>(path: &Path, request: Request) -> io::Result<T> {
    let mut stream = UnixStream::connect(path).await?;
    let mut text = serde_json::to_vec(&request)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    let mut line = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_request_is_answered_over_a_private_socket() {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("edge.sock");
            let server = Server::bind(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let (calls, mut asked) = mpsc::channel(1);
            let task = tokio::spawn(server.run(calls));
            let answering = tokio::spawn(async move {
                let Call { request, reply } = asked.recv().await.unwrap();
                assert_eq!(request, Request::Status);
                let status = Status { pid: 42, ..Status::default() };
                reply.send(Response::Status(Box::new(status))).unwrap();
            });
            assert_eq!(status(&path).await.unwrap().pid, 42);
            answering.await.unwrap();
            task.abort();
            let _ = task.await;
            assert!(!path.exists(), "the file is removed with the server");
        });
    }

    #[test]
    fn an_unknown_request_gets_an_error_and_a_missing_server_is_reported_as_not_running() {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("edge.sock");
            assert!(matches!(status(&path).await, Err(AskError::NotRunning(_))));
            let server = Server::bind(&path).unwrap();
            let (calls, _asked) = mpsc::channel(1);
            let task = tokio::spawn(server.run(calls));
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"{\"op\":\"destroy\"}\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            let response: Response = serde_json::from_str(&text).unwrap();
            assert!(matches!(response, Response::Error(_)));
            task.abort();
        });
    }

    #[test]
    fn a_line_is_what_is_documented() {
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#"{"op":"status"}"#);
        assert_eq!(serde_json::to_string(&Request::Doctor).unwrap(), r#"{"op":"doctor"}"#);
    }
}

//! The local socket: one line of JSON asks, one line answers.

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

use crate::status::Status;

/// A question is a line of at most this.
const MAX_QUESTION: u64 = 1024;
/// An answer: thousands of links.
const MAX_ANSWER: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(10);
/// Connections at a time.
const MAX_CLIENTS: usize = 8;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Question {
    /// → [`Status`].
    Status,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Box<Status>),
    /// The question is none, or there is no answer.
    Error(String),
}

/// A question and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// The question.
    pub question: Question,
    /// For the answer.
    pub reply: oneshot::Sender<Answer>,
}

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None runs.
    #[error("cframe-edge isn't running: nobody answers at {}", .0.display())]
    NotRunning(PathBuf),
    /// We may not.
    #[error("not allowed to use {}: ask as the user that runs cframe-edge", .0.display())]
    NotAllowed(PathBuf),
    /// Anything else.
    #[error("no answer at {}", .0.display())]
    Failed(PathBuf, #[source] io::Error),
    /// The daemon's answer.
    #[error("{0}")]
    Refused(String),
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens, with mode 0600, replacing the file that an earlier process left.
    ///
    /// # Errors
    /// When the path is too long for a socket (107 bytes), or its directory cannot be made.
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
        // Whoever connects between the two calls is turned away when it is accepted.
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until it is dropped, or until nobody takes the questions.
    pub async fn run(self, questions: mpsc::Sender<Asked>) {
        let room = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = tokio::task::JoinSet::new();
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            while clients.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) if !may_ask(&stream) => debug!("a stranger at the local socket"),
                Ok((stream, _)) => {
                    let questions = questions.clone();
                    clients.spawn(async move {
                        if timeout(LIMIT, serve(stream, questions)).await.is_err() {
                            debug!("a local client was too slow");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    debug!(%error, "accept on the local socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Root and ourselves. The file's mode says so too, but not in the moment before it is set.
fn may_ask(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| [0, ours].contains(&peer.uid()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // A file that is left answers "not running" all the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(mut stream: UnixStream, questions: mpsc::Sender<Asked>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_QUESTION)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => ask_within(question, &questions).await,
        Err(error) => Answer::Error(format!("not a question: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await
}

async fn ask_within(question: Question, questions: &mpsc::Sender<Asked>) -> Answer {
    let (reply, answer) = oneshot::channel();
    if questions.send(Asked { question, reply }).await.is_err() {
        return Answer::Error("cframe-edge is stopping".to_owned());
    }
    answer.await.unwrap_or_else(|_| Answer::Error("cframe-edge is stopping".to_owned()))
}

/// Asks a running daemon for its status.
///
/// # Errors
/// When none runs, or it doesn't answer.
pub async fn status(path: &Path) -> Result<Status, AskError> {
    let asked = timeout(LIMIT, ask(path, Question::Status)).await;
    let failed = |error| AskError::Failed(path.to_owned(), error);
    match asked.map_err(|_| failed(io::ErrorKind::TimedOut.into()))? {
        Ok(Answer::Status(status)) => Ok(*status),
        Ok(Answer::Error(text)) => Err(AskError::Refused(text)),
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

async fn ask<T: DeserializeOwned>(path: &Path, question: Question) -> io::Result<T> {
    let mut stream = UnixStream::connect(path).await?;
    let mut text = serde_json::to_vec(&question)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    let mut line = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_question_is_answered_over_a_private_socket() {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("edge.sock");
            let server = Server::bind(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let (questions, mut asked) = mpsc::channel(1);
            let task = tokio::spawn(server.run(questions));
            let answering = tokio::spawn(async move {
                let Asked { question, reply } = asked.recv().await.unwrap();
                assert_eq!(question, Question::Status);
                let status = Status { pid: 42, ..Status::default() };
                reply.send(Answer::Status(Box::new(status))).unwrap();
            });
            assert_eq!(status(&path).await.unwrap().pid, 42);
            answering.await.unwrap();
            task.abort();
            let _ = task.await;
            assert!(!path.exists(), "the file goes with the server");
        });
    }

    #[test]
    fn nonsense_gets_an_error_and_nobody_gets_not_running() {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("edge.sock");
            assert!(matches!(status(&path).await, Err(AskError::NotRunning(_))));
            let server = Server::bind(&path).unwrap();
            let (questions, _asked) = mpsc::channel(1);
            let task = tokio::spawn(server.run(questions));
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"{\"op\":\"destroy\"}\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            let answer: Answer = serde_json::from_str(&text).unwrap();
            assert!(matches!(answer, Answer::Error(_)));
            task.abort();
        });
    }

    #[test]
    fn a_line_is_what_is_documented() {
        assert_eq!(serde_json::to_string(&Question::Status).unwrap(), r#"{"op":"status"}"#);
    }
}

//! The local socket, mode 0600 in the data directory: a backup of a running controller. One line asks,
//! the answer's end is the connection's. No key goes over it; `backup` reads those from their files.

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{backup, server::Context};

/// The socket's name in the data directory.
pub const FILE: &str = "controller.sock";

const REQUEST: &str = "backup 1\n";
/// The longest request, and the longest that one may take.
const LONGEST: u64 = 64;
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
pub async fn ask(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.write_all(REQUEST.as_bytes()).await?;
    let mut dump = Vec::new();
    stream.read_to_end(&mut dump).await?;
    Ok(Some(dump))
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
                Ok(Err(error)) => tracing::warn!(%error, "a backup was not given"),
                Err(_) => tracing::warn!("a backup was not taken in time"),
            }
        });
    }
}

async fn answer(context: &Context, stream: UnixStream) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST)).read_line(&mut line).await?;
    anyhow::ensure!(line == REQUEST, "the request {line:?} is not known");
    let dump = backup::dump(&**context.mesh.store(), context.mesh.now()).await?;
    writer.write_all(&dump).await?;
    writer.shutdown().await?;
    Ok(())
}

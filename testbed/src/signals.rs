//! SIGINT, SIGTERM and SIGHUP end a command, which then has to remove its lab.

use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

pub(crate) struct Signals([Signal; 3]);

impl Signals {
    /// Runs `work` on this thread. It gets the signals of the whole time, so that it can create a
    /// lab without missing one.
    pub(crate) fn block_on<T>(work: impl AsyncFnOnce(Self) -> Result<T>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("starting a runtime")?;
        runtime.block_on(async { work(Self::listen()?).await })
    }

    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one of them.
    pub(crate) async fn any(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// Runs blocking `work` on a thread and returns its result; `None` if a signal comes first, and
    /// then the thread still runs.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        let (sender, result) = oneshot::channel();
        thread::spawn(move || sender.send(work()));
        tokio::select! {
            result = result => Ok(Some(result.context("the thread has panicked")?)),
            () = self.any() => Ok(None),
        }
    }
}

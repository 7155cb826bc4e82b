//! Opening the configured store, for every command.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use cframe_store::{ReadError, Store};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{DataDir, Failure},
    config::{Config, StoreConfig},
    model::record::Key,
    serve::http,
};

/// While the store does not answer.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Between two log lines that the store does not answer.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// For the HTTP server to end.
const HTTP_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens the store. A shared one need not answer yet.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>> {
    match &config.store {
        StoreConfig::Embedded => {
            let store = DataDir::new(&config.data_dir).open_store().await?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "etcd")]
        StoreConfig::Etcd(etcd) => {
            Ok(Arc::new(cframe_store::etcd::Etcd::open(&etcd.load()?).await?))
        }
        #[cfg(not(feature = "etcd"))]
        StoreConfig::Etcd(_) => Err(anyhow!(crate::config::NO_ETCD)),
    }
}

/// Where the store is, for messages.
pub(super) fn place(config: &Config) -> String {
    match &config.store {
        StoreConfig::Embedded => config.data_dir.display().to_string(),
        StoreConfig::Etcd(etcd) => format!("etcd at {}", etcd.endpoints.join(", ")),
    }
}

pub(super) async fn has_mesh(store: &dyn Store) -> Result<bool, ReadError> {
    let key = Key::Mesh.to_string();
    Ok(store.list(&key).await?.entries.iter().any(|entry| entry.key == key))
}

/// Waits until the store answers: at boot, etcd may start after the controller. Reports the problem in the log and at
/// `/readyz`. False if it was stopped before.
pub(super) async fn wait_for_store(
    store: &dyn Store,
    http: Option<&std::net::TcpListener>,
    stop: &CancellationToken,
) -> Result<bool, Failure> {
    let (problem, reported) = watch::channel("the store is being opened".to_owned());
    let serving = CancellationToken::new();
    let _end = serving.clone().drop_guard();
    let mut server = None;
    let mut logged: Option<Instant> = None;
    loop {
        let Some(answer) = stop.run_until_cancelled(has_mesh(store)).await else {
            return Ok(false);
        };
        match answer {
            Ok(found) => {
                serving.cancel();
                if let Some(server) = server {
                    // A slow client must not delay the start.
                    let _ = timeout(HTTP_TIMEOUT, server).await;
                }
                if found {
                    return Ok(true);
                }
                return Err(Failure::not_found(anyhow!(
                    "the store has no mesh; make one with `cframe-controller init`"
                )));
            }
            Err(error @ ReadError::Corrupt(_)) => return Err(error.into()),
            Err(ReadError::Unavailable(reason)) => {
                if logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
                    tracing::warn!(%reason, "the store does not answer; retrying until it does");
                    logged = Some(Instant::now());
                }
                problem.send_replace(format!("the store does not answer: {reason}"));
                if let (None, Some(listener)) = (&server, http) {
                    let listener = TcpListener::from_std(listener.try_clone()?)?;
                    let waiting = http::serve_waiting(listener, reported.clone(), serving.clone());
                    server = Some(tokio::spawn(waiting));
                }
            }
        }
        if stop.run_until_cancelled(sleep(RETRY_DELAY)).await.is_none() {
            return Ok(false);
        }
    }
}

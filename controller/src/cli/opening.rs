//! The store as configured, for every command.

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

/// The pause between two looks at a store that does not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two log lines about it.
const SAY: Duration = Duration::from_secs(30);
/// How long the end of the waiting HTTP server may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Opens the store. One that is shared need not answer yet.
///
/// # Errors
/// If the embedded store is missing, damaged or in use, or a file of the configuration cannot be used.
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

/// Where the mesh is, for a message.
pub(super) fn place(config: &Config) -> String {
    match &config.store {
        StoreConfig::Embedded => config.data_dir.display().to_string(),
        StoreConfig::Etcd(etcd) => format!("etcd at {}", etcd.endpoints.join(", ")),
    }
}

/// Whether the store has a mesh.
pub(super) async fn has_mesh(store: &dyn Store) -> Result<bool, ReadError> {
    let key = Key::Mesh.to_string();
    Ok(store.list(&key).await?.entries.iter().any(|entry| entry.key == key))
}

/// Waits until the store answers: at boot, etcd may come up after the controller. Says what is missing, in the
/// log and at `/readyz`. False if it was stopped before.
pub(super) async fn wait(
    store: &dyn Store,
    http: Option<&std::net::TcpListener>,
    stop: &CancellationToken,
) -> Result<bool, Failure> {
    let (trouble, told) = watch::channel("the store is being opened".to_owned());
    let serving = CancellationToken::new();
    let _end = serving.clone().drop_guard();
    let mut server = None;
    let mut said: Option<Instant> = None;
    loop {
        let Some(answer) = stop.run_until_cancelled(has_mesh(store)).await else {
            return Ok(false);
        };
        match answer {
            Ok(found) => {
                serving.cancel();
                if let Some(server) = server {
                    // Whoever takes its answer slowly is not waited for.
                    let _ = timeout(FAREWELL, server).await;
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
                if said.is_none_or(|said| said.elapsed() >= SAY) {
                    tracing::warn!(%reason, "the store does not answer; trying again until it does");
                    said = Some(Instant::now());
                }
                trouble.send_replace(format!("the store does not answer: {reason}"));
                if let (None, Some(listener)) = (&server, http) {
                    let listener = TcpListener::from_std(listener.try_clone()?)?;
                    let waiting = http::serve_waiting(listener, told.clone(), serving.clone());
                    server = Some(tokio::spawn(waiting));
                }
            }
        }
        if stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
            return Ok(false);
        }
    }
}

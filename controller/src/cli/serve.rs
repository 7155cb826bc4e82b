//! `run`: the sockets, the files and the signals around [`crate::run`].

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{DataDir, Failure, listen, open_store, opening},
    config::{Config, StoreConfig},
    serve::{Parts, local},
};

/// Bytes in the kernel for a burst of handshakes.
const RECEIVE_BUFFER: usize = 4 << 20;

pub(super) async fn command(config: &Config) -> Result<(), Failure> {
    let directory = DataDir::new(&config.data_dir);
    let has_mesh = match config.store {
        StoreConfig::Embedded => directory.has_store(),
        StoreConfig::Etcd(_) => directory.has_keys() && !directory.is_unfinished(),
    };
    if !has_mesh {
        if !config.store.is_shared() && directory.has_keys() {
            return Err(Failure::not_found(anyhow!(
                "there is no mesh in {}: its keys are there, and store.redb is missing; put it back, or restore a backup \
                 with `cframe-controller restore --in FILE`",
                directory.path().display()
            )));
        }
        return Err(Failure::not_found(anyhow!(
            "there is no mesh in {}; make one with `cframe-controller init`, or name its directory with \
             --data-dir",
            directory.path().display()
        )));
    }
    directory.ensure()?;
    let stop = stop_on_signals()?;
    let store = open_store(config).await?;
    let http = http(config)?;
    if config.store.is_shared() && !opening::wait_for_store(&*store, http.as_ref(), &stop).await? {
        return Ok(());
    }
    let parts = Parts {
        store,
        issuer: directory.issuer()?,
        authorities: Some(directory.authorities()),
        credentials: directory.credentials()?,
        resets: directory.resets()?,
        credentials_dir: Some(directory.identity()),
        control: udp(config.control_listen).context("--control-listen")?,
        enroll: udp(config.enroll_listen).context("--enroll-listen")?,
        http: http.map(TcpListener::from_std).transpose()?,
        local: Some(local::bind(&directory.socket()).context("the local socket")?),
        clock: Arc::new(cframe_pki::unix_now),
        audit: config.audit,
    };
    tracing::info!(control = %config.control_listen, enroll = %config.enroll_listen, "listening");
    let result = crate::run(parts, stop).await;
    // If this fails, the next start removes it.
    let _ = std::fs::remove_file(directory.socket());
    Ok(result?)
}

/// Cancelled by the first SIGTERM or SIGINT.
fn stop_on_signals() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        cancel.cancel();
    });
    Ok(stop)
}

fn http(config: &Config) -> Result<Option<std::net::TcpListener>> {
    let Some(address) = config.metrics_listen else { return Ok(None) };
    let listener = listen::tcp(address).with_context(|| {
        format!("--metrics-listen: cannot listen on {address}; give another address, or off")
    })?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

fn udp(address: SocketAddr) -> Result<UdpSocket> {
    let socket = listen::udp(address).with_context(|| format!("cannot listen on {address}/udp"))?;
    enlarge_buffer(&socket)
        .unwrap_or_else(|error| tracing::debug!(%error, "cannot enlarge the receive buffer"));
    Ok(socket)
}

fn enlarge_buffer(socket: &UdpSocket) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER)?)
}

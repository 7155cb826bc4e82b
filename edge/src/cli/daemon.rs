//! `run` and `down`.

use std::path::Path;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use cframe_console::exit::Exit;
use cframe_protocol::v1::Settings;

use super::{exit::Coded, log, runtime};
use crate::{
    config::{CommonFlags, Config, Options},
    host::{
        netlink::{Device, Kernel},
        ownership::{Owner, owner, refusal},
        router_advertisements, snat,
        tun::{Tun, TunError},
    },
    instance::Instance,
    local::{self, AskError},
    process,
};

pub(super) fn run(common: &CommonFlags, flags: &Options) -> Result<()> {
    let config = Config::load(common, flags)?;
    let filter = log::start(&config)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (reload, reloads) = mpsc::channel(1);
        let mut signals = tokio::task::JoinSet::new();
        // Before the start: a SIGHUP during it must not end the process.
        let caught = CaughtSignals::new().context("signals cannot be caught")?;
        let handler =
            SignalHandler { common: common.clone(), flags: flags.clone(), filter, reload };
        signals.spawn(handler.run(caught, shutdown.clone()));
        let result = process::run(config, shutdown, reloads).await;
        signals.shutdown().await;
        result
    });
    // Does not wait for name lookups that are still running.
    runtime.shutdown_background();
    result
}

struct CaughtSignals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl CaughtSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

/// Stops the process on SIGTERM and SIGINT, and reloads its configuration on SIGHUP.
struct SignalHandler {
    common: CommonFlags,
    flags: Options,
    filter: log::Filter,
    reload: mpsc::Sender<Config>,
}

impl SignalHandler {
    async fn run(self, mut caught: CaughtSignals, shutdown: CancellationToken) {
        // While the edge is busy, the latest configuration waits here, and other signals are still handled.
        let mut loaded = None;
        loop {
            tokio::select! {
                _ = caught.term.recv() => break,
                _ = caught.int.recv() => break,
                _ = caught.hup.recv() => loaded = self.load().or(loaded),
                permit = self.reload.reserve(), if loaded.is_some() => {
                    // Without a permit, the edge is stopping.
                    if let (Ok(permit), Some(config)) = (permit, loaded.take()) {
                        permit.send(config);
                    }
                }
            }
        }
        info!("stopping");
        shutdown.cancel();
    }

    /// Loads the configuration and applies its log filter. An error is logged.
    fn load(&self) -> Option<Config> {
        let loaded = Config::load(&self.common, &self.flags)
            .map_err(anyhow::Error::from)
            .and_then(|config| self.filter.set(&config.log).map(|()| config));
        loaded.inspect_err(|error| error!("configuration not reloaded: {error:#}")).ok()
    }
}

pub(super) fn down(common: &CommonFlags) -> Result<()> {
    let (instance, paths, _) = common.resolve()?;
    runtime()?.block_on(async {
        match local::status(&paths.socket).await {
            Err(AskError::NotRunning(_)) => {}
            Ok(status) => {
                let text = format!(
                    "{instance} is running as pid {}: stop it first, or it would undo this",
                    status.pid
                );
                return Err(Coded::error(Exit::Conflict, text));
            }
            Err(error) => return Err(error.into()),
        }
        remove(&instance, &paths.data).await
    })
}

/// Opens the device, so that no other process can use it while it is removed. Detects a process with another
/// data directory, which does not listen on this socket.
async fn claim_device(
    kernel: &Kernel,
    instance: &Instance,
) -> Result<Option<(Device, Option<Tun>)>> {
    let device = match owner(kernel, instance).await? {
        Owner::Nobody => return Ok(None),
        Owner::Other(device) => {
            let text = format!("{}; nothing was removed", refusal(&device));
            return Err(Coded::error(Exit::Conflict, text));
        }
        Owner::Ours(device) => device,
    };
    match Tun::open(instance.name(), Settings::default().tun_mtu) {
        Ok(tun) => Ok(Some((device, Some(tun)))),
        Err(error @ TunError::Busy(_)) => {
            let text = format!("{error}; stop it first, or it would undo this");
            Err(Coded::error(Exit::Conflict, text))
        }
        // The steps that follow report the error.
        Err(_) => Ok(Some((device, None))),
    }
}

/// Removes the rules first: after that, the table is not used, and its unreachable routes have no effect.
async fn remove(instance: &Instance, data: &Path) -> Result<()> {
    let kernel = Kernel::open()?;
    let claimed = claim_device(&kernel, instance).await?;
    let allowed = |error: crate::host::netlink::NetlinkError| match error.errno() {
        Some(rustix::io::Errno::PERM) => Coded::error(Exit::NotAllowed, "CAP_NET_ADMIN is needed"),
        _ => error.into(),
    };
    let rules = kernel.delete_rules(instance.table()).await.map_err(allowed)?;
    let found = kernel.table(instance.table()).await.map_err(allowed)?;
    kernel.delete_found(&found.iter().collect::<Vec<_>>()).await.map_err(allowed)?;
    if let Some((device, _)) = &claimed {
        kernel.delete_device(device.index).await.with_context(|| format!("device {instance}"))?;
    }
    snat::disable(instance).await?;
    for setting in router_advertisements::restore(data) {
        println!("set back: {setting}");
    }
    println!(
        "removed: {rules} rules, {} routes, {} device",
        found.len(),
        if claimed.is_some() { instance.name() } else { "no" }
    );
    Ok(())
}

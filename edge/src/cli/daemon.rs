//! `run` and `down`.

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{exit::Coded, exit::Exit, log, runtime};
use crate::{
    config::{Config, Flags, Place},
    control,
    host::{netlink::Kernel, snat},
    instance::Instance,
    local::{self, AskError},
};

pub(super) fn run(place: &Place, flags: &Flags) -> Result<()> {
    let config = Config::load(place, flags)?;
    let filter = log::start(&config)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (reload, reloads) = mpsc::channel(1);
        let mut signals = tokio::task::JoinSet::new();
        let watch = Signals { place: place.clone(), flags: flags.clone(), filter, reload };
        signals.spawn(watch.run(shutdown.clone()));
        let result = control::run(config, shutdown, reloads).await;
        signals.shutdown().await;
        result
    })
}

/// Turns signals into what they mean.
struct Signals {
    place: Place,
    flags: Flags,
    filter: log::Filter,
    reload: mpsc::Sender<Config>,
}

impl Signals {
    async fn run(self, shutdown: CancellationToken) {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [Ok(mut term), Ok(mut int), Ok(mut hup)] = kinds.map(signal) else {
            error!("signals cannot be caught");
            return shutdown.cancel();
        };
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => self.reload().await,
            }
        }
        info!("stopping");
        shutdown.cancel();
    }

    async fn reload(&self) {
        let loaded = Config::load(&self.place, &self.flags)
            .map_err(anyhow::Error::from)
            .and_then(|config| self.filter.set(&config.log).map(|()| config));
        match loaded {
            // The edge takes it, or is stopping.
            Ok(config) => drop(self.reload.send(config).await),
            Err(error) => error!("configuration not reloaded: {error:#}"),
        }
    }
}

pub(super) fn down(place: &Place) -> Result<()> {
    let (instance, paths, _) = place.resolve()?;
    runtime()?.block_on(async {
        match local::status(&paths.socket).await {
            Err(AskError::NotRunning(_)) => {}
            Ok(status) => {
                let text = format!(
                    "{instance} is running as pid {}: stop it first, or down would be undone",
                    status.pid
                );
                return Err(Coded::error(Exit::Conflict, text));
            }
            Err(error) => return Err(error.into()),
        }
        remove(&instance).await
    })
}

/// Rules first: then the table is out of the way, and nothing is unreachable for a moment longer.
async fn remove(instance: &Instance) -> Result<()> {
    let kernel = Kernel::open()?;
    let allowed = |error: crate::host::netlink::NetlinkError| match error.errno() {
        Some(rustix::io::Errno::PERM) => Coded::error(Exit::NotAllowed, "CAP_NET_ADMIN is needed"),
        _ => error.into(),
    };
    let rules = kernel.delete_rules(instance.table()).await.map_err(allowed)?;
    let found = kernel.table(instance.table()).await.map_err(allowed)?;
    kernel.delete_found(&found.iter().collect::<Vec<_>>()).await.map_err(allowed)?;
    let devices = kernel.devices().await.map_err(allowed)?;
    let device = devices.iter().find(|device| device.name == instance.name());
    if let Some(device) = device {
        kernel.delete_device(device.index).await.with_context(|| format!("device {instance}"))?;
    }
    snat::disable(instance).await?;
    println!(
        "removed: {rules} rules, {} routes, {} device",
        found.len(),
        if device.is_some() { instance.name() } else { "no" }
    );
    Ok(())
}

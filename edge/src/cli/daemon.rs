//! `run` and `down`.

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
    config::{Config, Flags, Place},
    host::{
        netlink::Kernel,
        snat,
        tun::{Tun, TunError},
    },
    instance::Instance,
    local::{self, AskError},
    process,
};

pub(super) fn run(place: &Place, flags: &Flags) -> Result<()> {
    let config = Config::load(place, flags)?;
    let filter = log::start(&config)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (reload, reloads) = mpsc::channel(1);
        let mut signals = tokio::task::JoinSet::new();
        // Caught from here on: a SIGHUP during the start must not end us.
        let caught = Caught::new().context("signals cannot be caught")?;
        let watch = Signals { place: place.clone(), flags: flags.clone(), filter, reload };
        signals.spawn(watch.run(caught, shutdown.clone()));
        let result = process::run(config, shutdown, reloads).await;
        signals.shutdown().await;
        result
    });
    // Without waiting for names that are still being looked up.
    runtime.shutdown_background();
    result
}

/// The signals that mean something to us.
struct Caught {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Caught {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

/// Turns signals into what they mean.
struct Signals {
    place: Place,
    flags: Flags,
    filter: log::Filter,
    reload: mpsc::Sender<Config>,
}

impl Signals {
    async fn run(self, mut caught: Caught, shutdown: CancellationToken) {
        // The latest waits for an edge that is busy, and holds up no other signal.
        let mut loaded = None;
        loop {
            tokio::select! {
                _ = caught.term.recv() => break,
                _ = caught.int.recv() => break,
                _ = caught.hup.recv() => loaded = self.load().or(loaded),
                permit = self.reload.reserve(), if loaded.is_some() => {
                    // Without one the edge is stopping.
                    if let (Ok(permit), Some(config)) = (permit, loaded.take()) {
                        permit.send(config);
                    }
                }
            }
        }
        info!("stopping");
        shutdown.cancel();
    }

    /// The configuration as it is now, with its log filter in force; none if it is wrong.
    fn load(&self) -> Option<Config> {
        let loaded = Config::load(&self.place, &self.flags)
            .map_err(anyhow::Error::from)
            .and_then(|config| self.filter.set(&config.log).map(|()| config));
        loaded.inspect_err(|error| error!("configuration not reloaded: {error:#}")).ok()
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

/// A process with another data directory doesn't answer at our socket, but holds the device.
async fn hold(kernel: &Kernel, instance: &Instance) -> Result<Option<Tun>> {
    let there = kernel.devices().await?.iter().any(|device| device.name == instance.name());
    if !there {
        return Ok(None);
    }
    match Tun::open(instance.name(), Settings::default().tun_mtu) {
        Ok(tun) => Ok(Some(tun)),
        Err(error @ TunError::Busy(_)) => Err(Coded::error(
            Exit::Conflict,
            format!("{error}; stop it first, or down would be undone"),
        )),
        // Somebody else's, or not for us: what follows says so.
        Err(_) => Ok(None),
    }
}

/// Rules first: then the table is out of the way, and nothing is unreachable for a moment longer.
async fn remove(instance: &Instance) -> Result<()> {
    let kernel = Kernel::open()?;
    let _held = hold(&kernel, instance).await?;
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

//! `run`, `guard` and `down`.

use std::path::PathBuf;

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
        firewall,
        netlink::Kernel,
        owner::{self, OwnerError},
        probe,
        sysctl::Saved,
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

/// Installs the firewall table from the state on disk, without an identity or a network.
pub(super) fn guard(common: &CommonFlags) -> Result<()> {
    let config = Config::load(common, &Options::default())?;
    let instance = &config.instance;
    let prefixes = runtime()?.block_on(async {
        // It is somebody else's, and packets may not leave by it.
        if Kernel::open()?.has_other_device(instance.name()).await? {
            let text =
                format!("{instance} is a device of this host: name another instance (--instance)");
            return Err(Coded::error(Exit::Conflict, text));
        }
        process::guard(&config).await
    })?;
    println!(
        "{prefixes} prefixes of the saved state are guarded: nothing leaves for them in the clear"
    );
    Ok(())
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
        remove(&instance, paths.data).await
    })
}

/// Opens the device, so that no other process can use it while it is removed. Detects a process with another
/// data directory, which does not listen on this socket.
fn claim_device(instance: &Instance) -> Result<Option<Tun>> {
    match Tun::open(instance.name(), Settings::default().tun_mtu) {
        Ok(tun) => Ok(Some(tun)),
        Err(error @ TunError::Busy(_)) => {
            let text = format!("{error}; stop it first, or it would undo this");
            Err(Coded::error(Exit::Conflict, text))
        }
        // The steps that follow report the error.
        Err(_) => Ok(None),
    }
}

/// Removes the rules first: after that, the table is not used, and its unreachable routes have no effect.
async fn remove(instance: &Instance, data: PathBuf) -> Result<()> {
    let kernel = Kernel::open()?;
    let allowed = |error: crate::host::netlink::NetlinkError| match error.errno() {
        Some(rustix::io::Errno::PERM) => Coded::error(Exit::NotAllowed, "CAP_NET_ADMIN is needed"),
        _ => error.into(),
    };
    let device = match owner::device(&kernel, instance).await {
        Ok(device) => device,
        Err(error @ OwnerError::Foreign(_)) => {
            return Err(Coded::error(Exit::Conflict, format!("nothing was removed: {error}")));
        }
        Err(OwnerError::Kernel(error)) => return Err(allowed(error)),
    };
    let _claimed = if device.is_some() { claim_device(instance)? } else { None };
    let rules = kernel.delete_rules(instance.table()).await.map_err(allowed)?;
    let found = kernel.table(instance.table()).await.map_err(allowed)?;
    kernel.delete_found(&found.iter().collect::<Vec<_>>()).await.map_err(allowed)?;
    if let Some(index) = device {
        kernel.delete_device(index).await.with_context(|| format!("device {instance}"))?;
    }
    let restored = Saved::new(data).restore();
    firewall::remove(instance).await?;
    probe::remove(instance).await;
    println!(
        "removed: {rules} rules, {} routes, {} device",
        found.len(),
        if device.is_some() { instance.name() } else { "no" }
    );
    if !restored.is_empty() {
        println!("put back: {}", restored.join(", "));
    }
    Ok(())
}

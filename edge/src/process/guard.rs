//! The firewall table before everything else: it needs neither identity nor network, and holds for the
//! prefixes of the last state on disk.

use anyhow::{Context as _, Result};
use cframe_pki::identity::Role;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    config::Config,
    host::{
        firewall::{self, Setup},
        reconcile::HostNetworks,
        routes::Edit,
    },
    snapshot::{self, Snapshot, SnapshotError},
};

/// Installs the table, for as long as the host runs or until `down`; returns the number of prefixes.
///
/// # Errors
/// If there is no state on disk, or it cannot be read; if `nft` or the kernel refuses the table.
pub async fn guard(config: &Config) -> Result<usize> {
    let dir = &config.paths.data;
    let known = load(config)?.with_context(|| {
        format!("there is no saved state in {}: nothing is known to guard", dir.display())
    })?;
    let count = known.len();
    let (_, networks) = watch::channel(HostNetworks::default());
    firewall::install(setup(config, Some(known), networks)).await?;
    Ok(count)
}

/// What the firewall starts with when the edge runs. A state that cannot be read is logged: a controller
/// sends another, and the table of an earlier process stays until then.
pub(super) fn at_start(
    config: &Config,
    networks: watch::Receiver<HostNetworks>,
    cancel: CancellationToken,
) -> Setup {
    let known = load(config).unwrap_or_else(|error| {
        warn!("the state on disk cannot be guarded: {:#}", anyhow::Error::new(error));
        None
    });
    Setup { cancel, ..setup(config, known, networks) }
}

fn setup(
    config: &Config,
    known: Option<Vec<Edit>>,
    networks: watch::Receiver<HostNetworks>,
) -> Setup {
    Setup {
        instance: config.instance.clone(),
        mark: config.mark,
        snat: config.snat,
        own_prefixes: config.own_prefixes,
        known,
        networks,
        cancel: CancellationToken::new(),
    }
}

fn load(config: &Config) -> Result<Option<Vec<Edit>>, SnapshotError> {
    let snapshot = snapshot::load(&config.paths.data.join(snapshot::FILE))?;
    Ok(snapshot.map(|snapshot| prefixes(&snapshot)))
}

fn prefixes(Snapshot { id, desired, .. }: &Snapshot) -> Vec<Edit> {
    let edit = |(net, owner): (&ipnet::IpNet, &_)| match &id.role {
        Role::Edge { name, .. } if name == owner => Edit::Own(*net),
        Role::Edge { .. } | Role::Controller { .. } | Role::Admin { .. } => Edit::Foreign(*net),
    };
    desired.prefixes.iter().map(edit).collect()
}

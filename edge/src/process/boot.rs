//! From a data directory to a running edge.

mod mesh;
mod stored;

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use cframe_pki::{
    tls::{self, LiveCredentials},
    verifier::{PeerVerifier, Policy, Trust},
};
use cframe_protocol::session::Client;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    EdgeProcess, Inputs,
    desired::DesiredState,
    device::Device,
    forwarding::Measurement,
    guard,
    identity::{Identity, Refusals},
    links::{LastSeen, Links},
    reports::Reports,
    uplink::{Uplink, merge_controllers},
};
use crate::{
    config::{Config, Forwarding},
    host::{
        driver::Driver,
        firewall::Firewall,
        owner::check_owner,
        probe::{self, Probe},
        reconcile::HostNetworks,
        routes::{Routes, Setup},
        socket::{Socket, listen_tcp},
    },
    local::{Call, Server},
    metrics, state,
};
use mesh::Core;
use stored::Stored;

/// Events and commands that wait between tasks.
const BACKLOG: usize = 64;

pub(super) async fn boot(
    config: Config,
    reloads: mpsc::Receiver<Config>,
) -> Result<(EdgeProcess, Inputs)> {
    let started = Instant::now();
    let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let (networks, known_networks) = watch::channel(HostNetworks::default());
    // Before the identity is read: a host whose edge cannot run forwards packets, too.
    let setup = guard::at_start(&config, known_networks, cancel.clone());
    let firewall = Firewall::start(setup, &mut tasks).await;
    let stored = Stored::load(&config.paths.data)?;
    let (namespace, name) = stored.namespace_and_name()?;
    let trust = stored.trust()?;
    let credentials = LiveCredentials::new(stored.credentials.clone())?;
    let refusals = Refusals::default();
    let boot_id = state::random()?;
    let mtu = stored.settings().tun_mtu;

    check_owner(&config.instance).await?;
    let (device, tun) = Device::open(config.instance.name(), mtu)?;
    let listen = config.listen.unwrap_or_else(|| stored.listen_port());
    let socket = Socket::bind(listen, config.mark.value)?;
    let last_seen = LastSeen::load(&stored.state.dir, &mut tasks);
    let links = Links::new(socket.port().unwrap_or(listen), config.mark.value, last_seen);
    let policy = Policy::Edges { namespace, not_self: Some(name.clone()) };
    let verifier = &PeerVerifier::new(trust.clone(), policy).with_observer(refusals.observer());
    let core =
        Core { config: &config, stored: &stored, credentials: &credentials, verifier, boot_id };
    let (watcher, arrivals) = probe::watcher(state::random()?);
    let (driver, driver_events) =
        Driver::start(core.build(&tun, &name, &links)?, socket, trust.clone(), watcher)
            .context("cannot start the data plane")?;
    let (instance, stop, mark) = (config.instance.clone(), cancel.clone(), config.mark.value);
    let probe = Probe::start(instance, driver.injector(), arrivals, stop, &mut tasks);

    let (routes, host_events) =
        Routes::start(routes_setup(&config, networks, &cancel), &mut tasks).await?;
    routes.set_device(device.index, mtu).await;
    let calls = serve_locally(&config, &cancel, &mut tasks)?;

    let have = stored.snapshot.as_ref().map(|snapshot| Arc::clone(&snapshot.desired));
    let client = controller_client(&config, &stored, &trust, &credentials, &refusals);
    let (uplink, commands) = Uplink::new(client, config.controllers);

    let Stored { state, identity, enrolment, snapshot, .. } = stored;
    let (id, dir) = (identity.id, state.dir.clone());
    let desired =
        DesiredState::new(name.clone(), id.clone(), dir, enrolment, snapshot.as_ref(), &mut tasks);
    let mut process = EdgeProcess {
        desired,
        identity: Identity::new(name, state, credentials, trust, refusals),
        uplink,
        device,
        links,
        reports: Reports::new(started),
        firewall,
        forwarding: Measurement::new(probe, mark),
        instance: config.instance,
        driver,
        routes,
        cancel,
        tasks,
    };
    if let Some(have) = have.clone() {
        info!(version = %have.version, edges = have.edges.len(), prefixes = have.prefixes.len(),
            "starting from the state on disk");
        process.apply_state(have, None).await;
    }
    // After the tables are filled: packets that are read before would be dropped.
    process.driver.set_tun(Some(tun));
    let session = process.uplink.start(have, boot_id, commands, &process.cancel);
    info!(%id, instance = %process.instance, listen = process.links.listen, "running");
    let (driver, host) = (driver_events, host_events);
    Ok((process, Inputs { session, driver, host, calls, reloads }))
}

fn routes_setup(
    config: &Config,
    networks: watch::Sender<HostNetworks>,
    cancel: &CancellationToken,
) -> Setup {
    Setup {
        instance: config.instance.clone(),
        mark: config.mark,
        forwarding: config.forwarding == Forwarding::Set,
        data: config.paths.data.clone(),
        networks,
        cancel: cancel.clone(),
    }
}

fn controller_client(
    config: &Config,
    stored: &Stored,
    trust: &Trust,
    credentials: &LiveCredentials,
    refusals: &Refusals,
) -> Client {
    let verifier = PeerVerifier::new(trust.clone(), Policy::Controller)
        .with_observer(refusals.controllers_observer());
    Client {
        addresses: merge_controllers(&config.controllers, &stored.controllers()),
        tls: Arc::new(tls::control_client(credentials, verifier)),
        mark: Some(config.mark.value),
    }
}

/// Starts the local socket and, if configured, metrics; both put their calls into one channel.
fn serve_locally(
    config: &Config,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<mpsc::Receiver<Call>> {
    let (calls, receiver) = mpsc::channel(BACKLOG);
    let path = &config.paths.socket;
    let server = Server::bind(path).with_context(|| {
        format!("cannot listen on {} (a path of at most 107 bytes)", path.display())
    })?;
    let stop = cancel.clone().cancelled_owned();
    tasks.spawn(until(stop, server.run(calls.clone())));
    if let Some(address) = config.metrics_listen {
        let listener = listen_tcp(address)
            .and_then(TcpListener::from_std)
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        let stop = cancel.clone().cancelled_owned();
        tasks.spawn(until(stop, metrics::serve(listener, calls)));
    }
    Ok(receiver)
}

async fn until(stop: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop => {}
    }
}

//! From a data directory to a running edge.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use cframe_mesh::{Crypto, Mesh, Offload};
use cframe_pki::{
    bundle::DenyList,
    identity::{Label, PeerIdentity, Role},
    tls::{self, Credentials, LiveCredentials},
    unix_now,
    verifier::{PeerSide, PeerVerifier, Policy, Refusal, Trust},
};
use cframe_protocol::{
    LINK_PORT,
    session::{Client, EdgeSession},
    v1::{Desired, Endpoint, Settings},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Connection, Device, Inputs, Site, apply::congestion, events::LinkLog, last_seen::LastSeen,
    refusals::Refusals, renew::Renewal, resolve::Resolver, save::Saver,
};
use crate::{
    config::{Config, Forwarding},
    host::{
        driver::Driver,
        routes::{Routes, Setup},
        socket::Socket,
        tun::Tun,
    },
    local::Server,
    metrics,
    snapshot::{self, Snapshot},
    state::{self, Cut, Enrolment, State},
};

/// Events and commands that wait between tasks.
const BACKLOG: usize = 64;

pub(super) async fn boot(
    config: Config,
    reloads: mpsc::Receiver<Config>,
) -> Result<(Site, Inputs)> {
    let started = Instant::now();
    let state = State::open(&config.paths.data)?;
    let (credentials, identity, enrolment) = state::load(&state.dir)?;
    let snapshot = load_snapshot(&state, &credentials, &identity);
    let credentials = LiveCredentials::new(credentials)?;
    let (namespace, name) = namespace_and_name(&identity)?;
    let trust = trust(&identity, &enrolment, snapshot.as_ref())?;
    let settings = snapshot.as_ref().map_or(enrolment.settings, |kept| kept.desired.settings);

    let listen = config.listen.unwrap_or(match enrolment.listen_port {
        0 => LINK_PORT,
        port => port,
    });
    let tun = Tun::open(config.instance.name(), settings.tun_mtu)?;
    let index = tun.index;
    let socket = Socket::bind(listen, config.instance.mark())?;
    let listen = socket.port().unwrap_or(listen);
    let boot = boot_id()?;
    let refusals = Refusals::default();
    let (namespace, not_self) = (namespace, Some(name.clone()));
    let verifier = PeerVerifier::new(trust.clone(), Policy::Edges { namespace, not_self })
        .with_observer(refusals.observer());
    let core = Core { config: &config, state: &state, identity: &identity, settings, boot };
    let mut mesh = core.build(&credentials, &verifier, &tun)?;
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let last_seen = LastSeen::load(&state.dir, &mut tasks);
    if let Some(kept) = &snapshot {
        introduce(&mut mesh, &name, &kept.desired, &last_seen);
    }
    let (driver, driver_events) =
        Driver::start(mesh, socket, trust.clone()).context("cannot start the data plane")?;

    let setup = Setup {
        instance: config.instance.clone(),
        forwarding: config.forwarding == Forwarding::Set,
        cancel: cancel.clone(),
    };
    let (routes, host_events) = Routes::start(setup, &mut tasks).await?;
    routes.set_device(Some(index), settings.tun_mtu).await;

    let verifier = PeerVerifier::new(trust.clone(), Policy::Controller);
    let client = Client {
        addresses: addresses(&config, &enrolment, snapshot.as_ref().map(|kept| &kept.desired)),
        tls: Arc::new(tls::control_client(
            &credentials,
            verifier.with_observer(refusals.observer()),
        )),
        mark: Some(config.instance.mark()),
    };
    let (session, commands) = mpsc::channel(BACKLOG);
    let (events, session_events) = mpsc::channel(BACKLOG);
    let (asks, asked) = mpsc::channel(BACKLOG);
    serve_locally(&config, &asks, &cancel, &mut tasks).await?;

    let now = Instant::now();
    let saver = Saver::start(state.dir.join(snapshot::FILE), identity.id.clone(), &mut tasks);
    let mut site = Site {
        renewal: Renewal::new(&identity),
        last_seen,
        links: LinkLog::default(),
        resolver: Resolver::default(),
        refusals,
        kept: snapshot.as_ref().map(|kept| kept.denied.clone()).unwrap_or_default(),
        desired: Arc::default(),
        confirmed: snapshot.as_ref().map(|kept| kept.saved),
        connection: Connection { controller: None, since: now, error: None, warned: None },
        cut: remembered_cut(&state, &identity),
        another_told: None,
        device: Device { index: Some(index), reopen_at: None },
        remotes: BTreeSet::new(),
        drops_told: BTreeMap::new(),
        snat_error: None,
        report_at: now,
        reported: now,
        config,
        state,
        enrolment,
        name,
        credentials,
        trust,
        client: client.clone(),
        session,
        driver,
        routes,
        saver,
        listen,
        started,
        cancel: cancel.clone(),
        tasks,
        talk: None,
    };
    let have = snapshot.map(|kept| Arc::new(kept.desired));
    if let Some(have) = &have {
        site.adopt(Arc::clone(have)).await;
        info!(version = %have.version, edges = have.edges.len(), prefixes = have.prefixes.len(),
            "started from the state on disk");
    }
    // After the tables: what is read before them would be dropped.
    site.driver.set_tun(Some(tun));
    let session = EdgeSession::new(client, have, env!("CARGO_PKG_VERSION"), boot);
    site.talk = Some(tokio::spawn(session.run(events, commands, cancel)));
    site.apply_snat_at_start().await;
    info!(id = %identity.id, instance = %site.config.instance, listen, "running");

    let inputs = Inputs {
        session: session_events,
        driver: driver_events,
        host: host_events,
        asked,
        reloads,
    };
    Ok((site, inputs))
}

impl Site {
    /// Without masquerading configured, nothing is run.
    async fn apply_snat_at_start(&mut self) {
        if self.config.snat {
            self.apply_snat().await;
        }
    }
}

fn namespace_and_name(identity: &PeerIdentity) -> Result<(Label, Label)> {
    match &identity.id.role {
        Role::Edge { namespace, name } => Ok((namespace.clone(), name.clone())),
        Role::Controller { .. } | Role::Admin { .. } => {
            anyhow::bail!("{} is not an edge's identity", identity.id)
        }
    }
}

/// A snapshot that cannot be used is named and left alone; the controller sends another.
fn load_snapshot(
    state: &State,
    credentials: &Credentials,
    identity: &PeerIdentity,
) -> Option<Snapshot> {
    match snapshot::load(&state.dir.join(snapshot::FILE)) {
        Ok(Some(kept)) if kept.id == identity.id && distrusts(&kept, credentials, identity) => {
            warn!(
                "the state on disk does not trust the root of our certificate; waiting for a controller"
            );
            None
        }
        Ok(Some(kept)) if kept.id == identity.id => Some(kept),
        Ok(Some(kept)) => {
            warn!(of = %kept.id, "the state on disk is another edge's; waiting for a controller");
            None
        }
        Ok(None) => None,
        Err(error) => {
            let error = anyhow::Error::new(error);
            warn!("the state on disk is ignored: {error:#}; waiting for a controller");
            None
        }
    }
}

/// Whether our certificate, of a join since, has a root that the state does not know: after a change of roots, or of a
/// mesh that was made again. By that state we would take no controller for one.
fn distrusts(kept: &Snapshot, credentials: &Credentials, identity: &PeerIdentity) -> bool {
    let (mesh, bundle) = (identity.id.mesh.clone(), kept.desired.trust.clone());
    let Ok(trust) = Trust::new(mesh, bundle, DenyList::default()) else { return false };
    let verifier = PeerVerifier::new(trust, Policy::ControlClients);
    // Whether it is valid now is not the question.
    let judged = verifier.judge(&credentials.chain, PeerSide::Client, identity.not_after);
    matches!(judged, Err(Refusal::NotTrusted(_)))
}

fn trust(
    identity: &PeerIdentity,
    enrolment: &Enrolment,
    snapshot: Option<&Snapshot>,
) -> Result<Trust> {
    let mesh = identity.id.mesh.clone();
    let denied = snapshot
        .into_iter()
        .flat_map(|kept| kept.desired.denied.iter().cloned().chain(kept.denied.iter()));
    let denied: DenyList = denied.collect();
    let bundle = snapshot.map_or(&enrolment.trust, |kept| &kept.desired.trust);
    match Trust::new(mesh.clone(), bundle.clone(), denied.clone()) {
        Ok(trust) => Ok(trust),
        Err(error) => {
            warn!(%error, "the state on disk has no usable trust bundle; taking enrolment's");
            Ok(Trust::new(mesh, enrolment.trust.clone(), denied)?)
        }
    }
}

/// A cut that an earlier process was told of. A controller has the last word.
fn remembered_cut(state: &State, identity: &PeerIdentity) -> Option<Cut> {
    let cut = Cut::load(&state.dir, identity.serial)?;
    let ago = unix_now().saturating_sub(cut.at);
    warn!(reason = %cut.reason, secs_ago = ago, "a controller has cut us off; peers will refuse us; \
        to come back, join again with a new token");
    Some(cut)
}

/// What a core is made of.
struct Core<'a> {
    config: &'a Config,
    state: &'a State,
    identity: &'a PeerIdentity,
    settings: Settings,
    boot: [u8; 16],
}

impl Core<'_> {
    fn build(
        &self,
        credentials: &LiveCredentials,
        verifier: &PeerVerifier,
        tun: &Tun,
    ) -> Result<Mesh> {
        let mut seed = [0; 32];
        state::random(&mut seed)?;
        let mesh = cframe_mesh::Config {
            id: self.identity.id.clone(),
            boot: self.boot,
            keys: self.state.endpoint_keys()?,
            crypto: Crypto::tls(
                tls::link_client(credentials, verifier.clone()),
                tls::link_server(credentials, verifier.clone()),
            )?,
            tun_mtu: self.settings.tun_mtu,
            underlay_mtu: self.config.underlay_mtu,
            congestion: congestion(self.settings.congestion),
            offload: Offload { udp: tun.udp_offload },
            seed,
        };
        let unix =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Ok(Mesh::new(mesh, Instant::now(), unix)?)
    }
}

/// Names the peers before the first datagram is read: one that is quicker than us is not a stranger.
fn introduce(mesh: &mut Mesh, own: &Label, desired: &Desired, last_seen: &LastSeen) {
    let now = Instant::now();
    let resolver = Resolver::default();
    for (net, owner) in &desired.prefixes {
        mesh.set_prefix(*net, owner);
    }
    for (name, state) in desired.edges.iter().filter(|(name, _)| *name != own) {
        mesh.set_peer(now, name, last_seen.or_endpoints(&resolver, name, &state.endpoints));
    }
}

/// Those of the configuration, and those of the newest state.
pub(super) fn addresses(
    config: &Config,
    enrolment: &Enrolment,
    desired: Option<&Desired>,
) -> Vec<Endpoint> {
    let known = desired.map(|desired| &desired.controllers).filter(|known| !known.is_empty());
    let mut addresses: BTreeSet<Endpoint> = config.controllers.iter().cloned().collect();
    match known {
        Some(known) => addresses.extend(known.iter().cloned()),
        None => addresses.extend(enrolment.controllers.iter().cloned()),
    }
    addresses.into_iter().collect()
}

async fn serve_locally(
    config: &Config,
    asks: &mpsc::Sender<crate::local::Asked>,
    cancel: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let path = &config.paths.socket;
    let server = Server::bind(path).with_context(|| {
        format!("cannot listen on {} (a path of at most 107 bytes)", path.display())
    })?;
    let (asks_local, stop) = (asks.clone(), cancel.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = server.run(asks_local) => {}
            () = stop.cancelled() => {}
        }
    });
    if let Some(address) = config.metrics_listen {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        let (asks, stop) = (asks.clone(), cancel.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = metrics::serve(listener, asks) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    Ok(())
}

fn boot_id() -> Result<[u8; 16]> {
    let mut boot = [0; 16];
    state::random(&mut boot)?;
    Ok(boot)
}

#[cfg(test)]
mod tests;

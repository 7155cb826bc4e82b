//! Admin calls. Deciding is pure and in the modules below; here is who may, what is carried out, and the
//! answer.

use std::{sync::Arc, time::Duration};

use cframe_pki::{
    identity::Label,
    verifier::{PeerIdentity, Refusal},
};
use cframe_protocol::v1::{
    AdminRequest, Call, CallError, Changed, ErrorCode, Progress, Reply, Version,
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    backup, check,
    draft::Draft,
    issuing::verify_csr,
    model::State,
    roles::{Holder, permit},
    server::Context,
    session::Order,
};

mod admin;
mod audit;
pub(crate) mod ca;
mod cert;
mod edge;
mod namespace;
mod route;
mod show;
mod status;
mod token;

pub(crate) use cert::{enrolled, renew};
pub(crate) use edge::{deny_certs, find as find_edge};

/// The longest that a wait may take.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Between two progress reports: a thousand acknowledgements are a few reports.
const PACE: Duration = Duration::from_millis(20);
/// Names of edges in one progress report.
const MAX_WAITING: usize = 20;

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The admin's name.
    pub name: Label,
    /// By which certificate.
    pub peer: PeerIdentity,
}

/// Answers one call in pieces, of which an error is the last. The answer's reader may be slow or gone.
pub async fn answer(
    context: &Arc<Context>,
    caller: &Caller,
    request: AdminRequest,
    replies: mpsc::Sender<Result<Reply, CallError>>,
) {
    let name = request.call.name();
    let dry_run = request.dry_run;
    let subject = audit::subject(&request.call).filter(|_| !dry_run);
    let result = match authorise(context, caller, &request.call) {
        Ok(()) => dispatch(context, caller, request, &replies).await,
        Err(error) => Err(error),
    };
    context.mesh.metrics.call(name, result.as_ref().err().map(|error| error.code));
    match &result {
        Ok(reply) => match subject {
            Some(subject) => {
                let made = audit::made(reply.as_ref());
                tracing::info!(call = name, admin = %caller.name, %subject, %made, "changed");
            }
            None => tracing::debug!(call = name, admin = %caller.name, dry_run, "answered"),
        },
        Err(error) => {
            tracing::info!(call = name, admin = %caller.name, dry_run, %error, "refused");
        }
    }
    let pieces = match result {
        Ok(reply) => reply.into_iter().flat_map(Reply::split).map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    for piece in pieces {
        if replies.send(piece).await.is_err() {
            return;
        }
    }
}

/// An admin is one as long as the store says so, whatever its certificate does.
fn authorise(context: &Context, caller: &Caller, call: &Call) -> Result<(), CallError> {
    match context.mesh.trust().denial(&caller.peer) {
        Ok(()) => {}
        Err(Refusal::RootRemoved) => {
            return Err(refused(format!(
                "the root above this certificate of admin {} was removed; connect again with a newer one",
                caller.name
            )));
        }
        Err(_) => {
            return Err(refused(format!("the certificate of admin {} was revoked", caller.name)));
        }
    }
    let admin = context.mesh.read(|state| state.admins.get(&caller.name).cloned());
    let Some(admin) = admin else {
        return Err(refused(format!("{} is not an admin of this mesh any more", caller.name)));
    };
    permit(&Holder::Admin { name: caller.name.clone(), read_only: admin.record.read_only }, call)
}

fn refused(message: String) -> CallError {
    CallError::new(ErrorCode::NotAllowed, message)
}

/// Carries out a call. `None` if the answer has been given by the way.
async fn dispatch(
    context: &Arc<Context>,
    caller: &Caller,
    AdminRequest { call, dry_run }: AdminRequest,
    replies: &mpsc::Sender<Result<Reply, CallError>>,
) -> Result<Option<Reply>, CallError> {
    let mesh = &context.mesh;
    let now = mesh.now();
    let reply = match call {
        Call::Version => Reply::Version {
            software: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: cframe_protocol::v1::PROTOCOL,
        },
        Call::Status => Reply::Status(status::status(context, now)),
        Call::NamespaceAdd { name, settings, description } => {
            let decide = |state: &State| namespace::add(state, &name, settings, &description);
            change(context, name.as_str(), dry_run, decide).await?
        }
        Call::NamespaceSet { name, tun_mtu, congestion } => {
            let decide = |state: &State| namespace::set(state, &name, tun_mtu, congestion);
            change(context, name.as_str(), dry_run, decide).await?
        }
        Call::NamespaceDel { name, cascade } => {
            let decide = |state: &State| namespace::delete(state, &name, cascade, now);
            change(context, name.as_str(), dry_run, decide).await?
        }
        Call::EdgeAdd { namespace, name, cidrs, endpoints, description } => {
            let record = crate::record::Edge { description, cidrs, endpoints };
            let decide = |state: &State| edge::add(state, &namespace, &name, record.clone());
            change(context, namespace.as_str(), dry_run, decide).await?
        }
        Call::EdgeSet { namespace, name, cidrs, endpoints, description } => {
            let wanted = edge::Change {
                cidrs: cidrs.as_deref(),
                endpoints: endpoints.as_deref(),
                description: description.as_deref(),
            };
            let decide = |state: &State| edge::set(state, &namespace, &name, &wanted);
            change(context, namespace.as_str(), dry_run, decide).await?
        }
        Call::EdgeDel { namespace, name } => {
            let decide = |state: &State| edge::delete(state, &namespace, &name, now);
            change(context, namespace.as_str(), dry_run, decide).await?
        }
        Call::RouteAdd { namespace, name, prefix, edge } => {
            let decide = |state: &State| route::add(state, &namespace, &name, prefix, &edge);
            change(context, namespace.as_str(), dry_run, decide).await?
        }
        Call::RouteDel { namespace, name } => {
            let decide = |state: &State| route::delete(state, &namespace, &name);
            change(context, namespace.as_str(), dry_run, decide).await?
        }
        Call::TokenRevoke { id } => {
            let decide = |state: &State| token::revoke(state, &id);
            change(context, &id, dry_run, decide).await?
        }
        Call::CertRevoke { serial, reason } => {
            let serving = context.credentials.identity().serial;
            let own = cert::Own { caller: caller.peer.serial, serving };
            let decide = |state: &State| cert::revoke(state, serial, &reason, &own, now);
            let lane = mesh.read(|state| lane_of(state, serial));
            change(context, &lane, dry_run, decide).await?
        }
        Call::AdminDel { name } => {
            let decide = |state: &State| admin::delete(state, &name, &caller.name, now);
            change(context, name.as_str(), dry_run, decide).await?
        }
        Call::IssuerRevoke { fingerprint } => {
            let own = context.issuer.current().ca().spki_sha256();
            let decide =
                |state: &State| cert::revoke_issuer(state, fingerprint, own, &caller.peer, now);
            change(context, "", dry_run, decide).await?
        }
        Call::TokenCreate { namespace, edge, ttl_secs, rejoin } => {
            let by = &caller.name;
            let wanted = token::Wanted { namespace: &namespace, edge: &edge, ttl_secs, rejoin, by };
            let fresh =
                token::Fresh::generate(context.issuer.current().pin(), context.enroll_port)?;
            let decide = |state: &State| token::create(state, &wanted, &fresh, now);
            make(context, namespace.as_str(), dry_run, decide, Reply::TokenMade).await?
        }
        Call::CertEnroll { namespace, edge, csr } => {
            let csr = verify_csr(&csr)?;
            let issuer = context.issuer.current();
            let decide = |state: &State| cert::enroll(state, &issuer, &namespace, &edge, &csr, now);
            make(context, namespace.as_str(), dry_run, decide, Reply::Enrolled).await?
        }
        Call::AdminAdd { name, csr, read_only } => {
            let csr = verify_csr(&csr)?;
            let issuer = context.issuer.current();
            let decide = |state: &State| {
                admin::add(state, &issuer, &name, read_only, &csr, &caller.name, now)
            };
            make(context, name.as_str(), dry_run, decide, Reply::AdminEnrolled).await?
        }
        Call::CertRenew { namespace, edge } => renew_now(context, &namespace, &edge, dry_run)?,
        Call::Wait { namespace, version, timeout_secs } => {
            let limit = Duration::from_secs(timeout_secs.into()).min(MAX_WAIT);
            wait(context, &namespace, version, limit, replies).await?;
            return Ok(None);
        }
        Call::Backup => {
            let dump = backup::dump(&**mesh.store(), now).await.map_err(|error| {
                CallError::new(ErrorCode::Unavailable, format!("no backup: {error}"))
            })?;
            Reply::Chunk(dump)
        }
        Call::NamespaceList => mesh.read(show::namespaces),
        Call::NamespaceShow { name } => mesh.read(|state| show::namespace(state, &name))?,
        Call::EdgeList { namespace } => {
            mesh.read(|state| show::edges(context, state, namespace.as_ref(), now))?
        }
        Call::EdgeShow { namespace, name } => {
            mesh.read(|state| show::edge(context, state, &namespace, &name, now))?
        }
        Call::RouteList { namespace } => {
            mesh.read(|state| show::routes(state, namespace.as_ref()))?
        }
        Call::RouteShow { namespace, name } => {
            mesh.read(|state| show::route(state, &namespace, &name))?
        }
        Call::TokenList { namespace } => {
            mesh.read(|state| show::tokens(state, namespace.as_ref(), now))?
        }
        Call::CertList { namespace } => {
            mesh.read(|state| show::certs(state, namespace.as_ref(), now))
        }
        Call::CertShow { serial } => mesh.read(|state| show::cert(state, serial, now))?,
        Call::AdminList => mesh.read(|state| show::admins(state, now)),
        Call::CaStatus => Reply::Ca(mesh.read(|state| ca::status(state, &mesh.sessions, now))),
        Call::CaHolders { fingerprint } => {
            Reply::Holders(mesh.read(|state| ca::holders(state, &mesh.sessions, fingerprint, now)))
        }
        Call::RootAdd { certificate } => {
            let decide = |state: &State| ca::add_root(state, &certificate, now);
            change(context, "", dry_run, decide).await?
        }
        Call::RootDrop { fingerprint, force } => {
            let own = context.issuer.current().pin();
            let asker = ca::Asker { caller: &caller.peer, own };
            let sessions = &mesh.sessions;
            let decide =
                |state: &State| ca::drop_root(state, sessions, fingerprint, &asker, force, now);
            change(context, "", dry_run, decide).await?
        }
        Call::TrustShow => Reply::Trust(mesh.read(crate::issuing::bundle)),
    };
    Ok(Some(reply))
}

/// A certificate for an admin that the controller's own host asks for: a new admin, or a new certificate
/// for one that is there.
///
/// # Errors
/// If the store does not take it.
pub(crate) async fn local_admin(
    context: &Context,
    name: &Label,
    read_only: bool,
    csr: &cframe_pki::issue::VerifiedCsr,
) -> Result<cframe_protocol::v1::AdminEnrolled, CallError> {
    let (mesh, issuer) = (&context.mesh, context.issuer.current());
    let decide = |state: &State| admin::add(state, &issuer, name, read_only, csr, name, mesh.now());
    mesh.write(name.as_str(), decide).await.map(|(_, enrolled)| enrolled)
}

/// A write that answers with its version.
async fn change(
    context: &Context,
    lane: &str,
    dry_run: bool,
    decide: impl Fn(&State) -> Result<Draft, CallError>,
) -> Result<Reply, CallError> {
    let decide = |state: &State| Ok((decide(state)?, ()));
    if dry_run {
        return context.mesh.rehearse(decide).map(Reply::Changed);
    }
    context.mesh.write(lane, decide).await.map(|(changed, ())| Reply::Changed(changed))
}

/// A write that answers with what it made.
async fn make<T>(
    context: &Context,
    lane: &str,
    dry_run: bool,
    decide: impl Fn(&State) -> Result<(Draft, T), CallError>,
    reply: impl Fn(T) -> Reply,
) -> Result<Reply, CallError> {
    if dry_run {
        return context.mesh.rehearse(decide).map(Reply::Changed);
    }
    context.mesh.write(lane, decide).await.map(|(_, made)| reply(made))
}

/// Writers about one namespace's certificates take turns with those of the namespace.
fn lane_of(state: &State, serial: cframe_pki::Serial) -> String {
    let cert = state.certs.get(&serial).map(|cert| &cert.record.id.role);
    cert.and_then(|role| role.namespace()).map(ToString::to_string).unwrap_or_default()
}

fn renew_now(
    context: &Context,
    namespace: &Label,
    edge: &Label,
    dry_run: bool,
) -> Result<Reply, CallError> {
    let mesh = &context.mesh;
    let version = mesh.read(|state| {
        let space = check::namespace(state, namespace)?;
        edge::find(space, namespace, edge)?;
        Ok::<_, CallError>(state.version(namespace).unwrap_or_default())
    })?;
    let connected = if dry_run {
        mesh.sessions.seen(namespace, edge).is_some_and(|seen| seen.online)
    } else {
        mesh.sessions.order(namespace, edge, Order::RenewNow)
    };
    if !connected {
        return Err(CallError::new(
            ErrorCode::Unavailable,
            format!(
                "edge {edge} of namespace {namespace} has no session with this controller; it renews \
                 by itself when it comes back"
            ),
        ));
    }
    Ok(Reply::Changed(Changed { version, warnings: Vec::new() }))
}

async fn wait(
    context: &Context,
    namespace: &Label,
    version: Version,
    limit: Duration,
    replies: &mpsc::Sender<Result<Reply, CallError>>,
) -> Result<(), CallError> {
    let mesh = &context.mesh;
    let deadline = Instant::now() + limit;
    let mut word = mesh.sessions.progress();
    let mut last = None;
    loop {
        mesh.read(|state| check::namespace(state, namespace).map(drop))?;
        word.mark_unchanged();
        let progress = progress(context, namespace, version);
        let done = progress.acked == progress.total;
        if last.as_ref() != Some(&progress) {
            last = Some(progress.clone());
            if replies.send(Ok(Reply::Progress(progress.clone()))).await.is_err() {
                return Ok(());
            }
        }
        if done {
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
        if tokio::time::timeout_at(deadline, word.changed()).await.is_err() {
            return Err(CallError::new(
                ErrorCode::Unavailable,
                format!(
                    "{} of {} connected edges have {version} after {} s; waiting for {}",
                    progress.acked,
                    progress.total,
                    limit.as_secs(),
                    namespace::some(progress.waiting.iter())
                ),
            ));
        }
    }
}

fn progress(context: &Context, namespace: &Label, version: Version) -> Progress {
    let online = context.mesh.sessions.online(namespace);
    let has = |applied: &Option<Version>| applied.is_some_and(|at| at.at_least(&version));
    let mut waiting: Vec<Label> =
        online.iter().filter(|(_, applied)| !has(applied)).map(|(name, _)| name.clone()).collect();
    let (total, acked) = (online.len(), online.len() - waiting.len());
    waiting.sort();
    waiting.truncate(MAX_WAITING);
    Progress { acked: count(acked), total: count(total), waiting }
}

/// A number for the wire.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

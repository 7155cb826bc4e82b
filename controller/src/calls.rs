//! Admin calls. Deciding is pure and in the modules below; here is who may, what is carried out, and the
//! answer.

use std::{net::SocketAddr, sync::Arc};

use cframe_pki::{
    identity::{Label, Role},
    verifier::{PeerIdentity, Refusal},
};
use cframe_protocol::v1::{
    AdminRequest, AuditQuery, Call, CallError, Changed, EdgeLiveness, ErrorCode, Reply,
};
use cframe_store::Revision;
use tokio::sync::mpsc;

use crate::{
    audit::{self, Act},
    backup, check,
    draft::Draft,
    issuing::{self, verify_csr},
    model::State,
    peers,
    record::Key,
    roles::{Holder, permit},
    server::Context,
    session::Order,
};

mod admin;
pub(crate) mod ca;
mod cert;
mod controller;
mod edge;
mod namespace;
mod route;
mod show;
mod sightings;
mod status;
mod steps;
mod token;
mod wait;

pub(crate) use cert::{enrolled, renew};
pub(crate) use edge::{deny_certs, find as find_edge};
use sightings::Of;
pub(crate) use sightings::{BRIEF, Sightings};

/// Who calls: an admin, or another controller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its name.
    pub name: Label,
    /// By which certificate.
    pub peer: PeerIdentity,
    /// From where.
    pub address: SocketAddr,
}

impl Caller {
    fn is_controller(&self) -> bool {
        matches!(self.peer.id.role, Role::Controller { .. })
    }
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
    let act = Act::call(&caller.peer, caller.address, &request.call, dry_run);
    let result = match authorise(context, caller, &request.call) {
        Ok(()) => dispatch(context, &act, caller, request, &replies).await,
        Err(error) => Err(error),
    };
    context.mesh.settle(&act, result.as_ref().err());
    context.mesh.metrics.call(name, result.as_ref().err().map(|error| error.code));
    match &result {
        Ok(reply) if !dry_run && !act.looks() => {
            let (subject, made) = (&act.subject, made(reply.as_ref()));
            tracing::info!(call = name, admin = %caller.name, %subject, %made, "changed");
        }
        Ok(_) => tracing::debug!(call = name, admin = %caller.name, dry_run, "answered"),
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

/// The serial of the certificate, or the id of the token, that was made.
fn made(reply: Option<&Reply>) -> String {
    match reply {
        Some(Reply::Enrolled(enrolled)) => issuing::serial(&enrolled.chain),
        Some(Reply::AdminEnrolled(enrolled)) => issuing::serial(&enrolled.chain),
        Some(Reply::TokenMade(made)) => made.id.clone(),
        _ => String::new(),
    }
}

/// An admin is one as long as the store says so, whatever its certificate does; so is a controller.
fn authorise(context: &Context, caller: &Caller, call: &Call) -> Result<(), CallError> {
    let name = &caller.name;
    let kind = caller.peer.id.role.kind();
    match context.mesh.trust().denial(&caller.peer) {
        Ok(()) => {}
        Err(Refusal::RootRemoved) => {
            return Err(refused(format!(
                "the root above this certificate of {kind} {name} was removed; connect again with a newer one"
            )));
        }
        Err(_) => return Err(refused(format!("the certificate of {kind} {name} was revoked"))),
    }
    let holder = context.mesh.read(|state| match &caller.peer.id.role {
        Role::Edge { .. } => Some(Holder::Edge),
        Role::Admin { .. } => state
            .admins
            .get(name)
            .map(|admin| Holder::Admin { name: name.clone(), read_only: admin.record.read_only }),
        Role::Controller { .. } => {
            let known = state.controllers.contains_key(name);
            known.then(|| Holder::Controller { name: name.clone() })
        }
    });
    match holder {
        Some(holder) => permit(&holder, call),
        None => Err(refused(format!("{name} is not a {kind} of this mesh any more"))),
    }
}

/// Whether the caller is an admin yet when a decision is taken anew, with the revision of its record.
fn still_admin(state: &State, caller: &Caller) -> Result<Revision, CallError> {
    let name = &caller.name;
    if state.denied.contains_key(&caller.peer.serial) {
        return Err(refused(format!("the certificate of admin {name} was revoked")));
    }
    let own = state.admins.get(name).map(|admin| admin.modified);
    own.ok_or_else(|| refused(format!("{name} is not an admin of this mesh any more")))
}

fn refused(message: String) -> CallError {
    CallError::new(ErrorCode::NotAllowed, message)
}

/// Carries out a call. `None` if the answer has been given by the way.
async fn dispatch(
    context: &Arc<Context>,
    act: &Act,
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
        Call::Status if caller.is_controller() => Reply::Status(status::own(context)),
        Call::Status => Reply::Status(status::status(context, now).await),
        Call::NamespaceAdd { name, settings, description } => {
            let decide = |state: &State| namespace::add(state, &name, settings, &description);
            change(context, act, name.as_str(), dry_run, decide).await?
        }
        Call::NamespaceSet { name, tun_mtu, congestion } => {
            let decide = |state: &State| namespace::set(state, &name, tun_mtu, congestion);
            change(context, act, name.as_str(), dry_run, decide).await?
        }
        Call::NamespaceDel { name, cascade } => {
            let decide = |state: &State| namespace::delete(state, &name, cascade, now);
            if !dry_run {
                let step = |state: &State, room| steps::of_namespace(state, &name, room, now);
                steps::make_room(mesh, act, name.as_str(), decide, step).await?;
            }
            change(context, act, name.as_str(), dry_run, decide).await?
        }
        Call::EdgeAdd { namespace, name, cidrs, endpoints, description } => {
            let record = crate::record::Edge { description, cidrs, endpoints };
            let decide = |state: &State| edge::add(state, &namespace, &name, record.clone());
            change(context, act, namespace.as_str(), dry_run, decide).await?
        }
        Call::EdgeSet { namespace, name, cidrs, endpoints, description } => {
            let wanted = edge::Change {
                cidrs: cidrs.as_deref(),
                endpoints: endpoints.as_deref(),
                description: description.as_deref(),
            };
            let decide = |state: &State| edge::set(state, &namespace, &name, &wanted);
            change(context, act, namespace.as_str(), dry_run, decide).await?
        }
        Call::EdgeDel { namespace, name } => {
            let decide = |state: &State| edge::delete(state, &namespace, &name, now);
            if !dry_run {
                let step = |state: &State, room| steps::of_edge(state, &namespace, &name, room);
                steps::make_room(mesh, act, namespace.as_str(), decide, step).await?;
            }
            change(context, act, namespace.as_str(), dry_run, decide).await?
        }
        Call::RouteAdd { namespace, name, prefix, edge } => {
            let decide = |state: &State| route::add(state, &namespace, &name, prefix, &edge);
            change(context, act, namespace.as_str(), dry_run, decide).await?
        }
        Call::RouteDel { namespace, name } => {
            let decide = |state: &State| route::delete(state, &namespace, &name);
            change(context, act, namespace.as_str(), dry_run, decide).await?
        }
        Call::TokenRevoke { id } => {
            let decide = |state: &State| token::revoke(state, &id);
            change(context, act, &id, dry_run, decide).await?
        }
        Call::CertRevoke { serial, reason } => {
            let serving = context.credentials.identity().serial;
            let own = cert::Own { caller: caller.peer.serial, serving };
            let decide = |state: &State| cert::revoke(state, serial, &reason, &own, now);
            let lane = mesh.read(|state| lane_of(state, serial));
            change(context, act, &lane, dry_run, decide).await?
        }
        Call::AdminDel { name } => {
            let decide = |state: &State| admin::delete(state, &name, &caller.name, now);
            change(context, act, name.as_str(), dry_run, decide).await?
        }
        Call::IssuerRevoke { fingerprint } => {
            let own = context.issuer.current().ca().spki_sha256();
            let decide =
                |state: &State| cert::revoke_issuer(state, fingerprint, own, &caller.peer, now);
            change(context, act, "", dry_run, decide).await?
        }
        Call::TokenCreate { namespace, edge, ttl_secs, rejoin } => {
            let by = &caller.name;
            let wanted = token::Wanted { namespace: &namespace, edge: &edge, ttl_secs, rejoin, by };
            let pin = context.issuer.current().pin();
            let fresh = token::Fresh::generate(pin, context.name(), context.enroll_port)?;
            let decide = |state: &State| token::create(state, &wanted, &fresh, now);
            make(context, act, namespace.as_str(), dry_run, decide, Reply::TokenMade).await?
        }
        Call::CertEnroll { namespace, edge, csr } => {
            let csr = verify_csr(&csr)?;
            let issuer = context.issuer.current();
            let decide = |state: &State| cert::enroll(state, &issuer, &namespace, &edge, &csr, now);
            make(context, act, namespace.as_str(), dry_run, decide, Reply::Enrolled).await?
        }
        Call::AdminAdd { name, csr, read_only } => {
            let csr = verify_csr(&csr)?;
            let issuer = context.issuer.current();
            let decide = |state: &State| {
                let own = still_admin(state, caller)?;
                let (mut draft, enrolled) =
                    admin::add(state, &issuer, &name, read_only, &csr, &caller.name, now)?;
                draft.compare(Key::Admin(caller.name.clone()), own);
                draft.compare(Key::Denied(caller.peer.serial), 0);
                Ok((draft, enrolled))
            };
            make(context, act, name.as_str(), dry_run, decide, Reply::AdminEnrolled).await?
        }
        Call::CertRenew { namespace, edge } => {
            let further = !caller.is_controller();
            renew_now(context, &namespace, &edge, further, dry_run).await?
        }
        Call::ControllerDel { name, revoke_issuer } => {
            let own = context.name();
            let decide = |state: &State| controller::delete(state, &name, revoke_issuer, &own, now);
            change(context, act, "", dry_run, decide).await?
        }
        Call::Wait { namespace, version, timeout_secs } => {
            wait::wait(context, &namespace, version, timeout_secs, replies).await?;
            return Ok(None);
        }
        Call::Audit(query) => {
            let allowed = || authorise(context, caller, &Call::Audit(AuditQuery::default()));
            audit::query::answer(mesh, &query, allowed, replies, &context.stop).await?;
            return Ok(None);
        }
        Call::Behind { namespace, version, timeout_secs } => {
            wait::tell(context, &namespace, version, timeout_secs, replies).await?;
            return Ok(None);
        }
        Call::Sessions { namespace, edge, brief } => {
            let of = Of { namespace: namespace.as_ref(), edge: edge.as_ref(), brief };
            sightings::sessions(&mesh.sessions, of)
        }
        Call::Backup => {
            let dump = backup::dump(&**mesh.store(), now).await.map_err(|error| {
                CallError::new(ErrorCode::Unavailable, format!("no backup: {error}"))
            })?;
            Reply::Chunk(dump)
        }
        Call::NamespaceList => mesh.read(show::namespaces),
        Call::NamespaceShow { name } => mesh.read(|state| show::namespace(state, &name))?,
        Call::EdgeList { namespace } => show::edges(context, namespace.as_ref(), now).await?,
        Call::EdgeShow { namespace, name } => show::edge(context, &namespace, &name, now).await?,
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
        Call::CaStatus => {
            let sessions = Sightings::gather(context, BRIEF).await;
            Reply::Ca(mesh.read(|state| ca::status(state, &sessions, now)))
        }
        Call::CaHolders { fingerprint } => {
            let sessions = Sightings::gather(context, BRIEF).await;
            Reply::Holders(mesh.read(|state| ca::holders(state, &sessions, fingerprint, now)))
        }
        Call::RootAdd { certificate } => {
            let decide = |state: &State| ca::add_root(state, &certificate, now);
            change(context, act, "", dry_run, decide).await?
        }
        Call::RootDrop { fingerprint, force } => {
            let own = context.issuer.current().pin();
            let asker = ca::Asker { caller: &caller.peer, own };
            let sessions = &Sightings::gather(context, BRIEF).await;
            let decide =
                |state: &State| ca::drop_root(state, sessions, fingerprint, &asker, force, now);
            change(context, act, "", dry_run, decide).await?
        }
        Call::TrustShow => Reply::Trust(mesh.read(issuing::bundle)),
        Call::ControllerList => mesh.read(controller::list)?,
        Call::ControllerShow { name } => mesh.read(|state| controller::show(state, &name))?,
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
    act: &Act,
    name: &Label,
    read_only: bool,
    csr: &cframe_pki::issue::VerifiedCsr,
) -> Result<cframe_protocol::v1::AdminEnrolled, CallError> {
    let (mesh, issuer) = (&context.mesh, context.issuer.current());
    let decide = |state: &State| admin::add(state, &issuer, name, read_only, csr, name, mesh.now());
    mesh.write(name.as_str(), act, decide).await.map(|(_, enrolled)| enrolled)
}

/// A write that answers with its version.
async fn change(
    context: &Context,
    act: &Act,
    lane: &str,
    dry_run: bool,
    decide: impl Fn(&State) -> Result<Draft, CallError>,
) -> Result<Reply, CallError> {
    let decide = |state: &State| Ok((decide(state)?, ()));
    if dry_run {
        return context.mesh.rehearse(act, decide).map(Reply::Changed);
    }
    context.mesh.write(lane, act, decide).await.map(|(changed, ())| Reply::Changed(changed))
}

/// A write that answers with what it made.
async fn make<T>(
    context: &Context,
    act: &Act,
    lane: &str,
    dry_run: bool,
    decide: impl Fn(&State) -> Result<(Draft, T), CallError>,
    reply: impl Fn(T) -> Reply,
) -> Result<Reply, CallError> {
    if dry_run {
        return context.mesh.rehearse(act, decide).map(Reply::Changed);
    }
    context.mesh.write(lane, act, decide).await.map(|(_, made)| reply(made))
}

/// Writers about one namespace's certificates take turns with those of the namespace.
fn lane_of(state: &State, serial: cframe_pki::Serial) -> String {
    let cert = state.certs.get(&serial).map(|cert| &cert.record.id.role);
    cert.and_then(|role| role.namespace()).map(ToString::to_string).unwrap_or_default()
}

/// Gives the order to whichever controller the edge is connected to: to others only if this one `further`s it.
async fn renew_now(
    context: &Arc<Context>,
    namespace: &Label,
    edge: &Label,
    further: bool,
    dry_run: bool,
) -> Result<Reply, CallError> {
    let mesh = &context.mesh;
    let version = mesh.read(|state| {
        let space = check::namespace(state, namespace)?;
        edge::find(space, namespace, edge)?;
        Ok::<_, CallError>(state.version(namespace).unwrap_or_default())
    })?;
    let changed = || Reply::Changed(Changed { version, warnings: Vec::new() });
    let mut unheard = Vec::new();
    if dry_run {
        let wanted = Of { namespace: Some(namespace), edge: Some(edge), brief: true };
        let sightings = Sightings::gather(context, wanted).await;
        let seen = sightings.seen(namespace, edge);
        if matches!(sightings.liveness(seen.as_ref(), true), EdgeLiveness::Online { .. }) {
            return Ok(changed());
        }
        unheard.extend(sightings.unheard.into_iter().map(|(name, _)| name));
    } else if mesh.sessions.order(namespace, edge, Order::RenewNow) {
        return Ok(changed());
    } else if further {
        let call = Call::CertRenew { namespace: namespace.clone(), edge: edge.clone() };
        for (name, answer) in peers::ask_all(context, &call).await {
            match answer {
                Ok(_) => return Ok(changed()),
                // It has no session with the edge either.
                Err(cframe_protocol::session::CallFailure::Refused(_)) => {}
                Err(_) => unheard.push(name),
            }
        }
    }
    let mut error = CallError::new(
        ErrorCode::Unavailable,
        format!(
            "edge {edge} of namespace {namespace} has no session with a controller; it renews by itself when \
             it comes back"
        ),
    );
    if !unheard.is_empty() {
        let names = namespace::some(unheard.iter());
        error.hint = Some(format!("no answer of controller {names}, which may have one"));
    }
    Err(error)
}

/// A number for the wire.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

//! From a call to its decision: one function for each noun.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each function has the calls of one noun, and `decide::call::describe` names the noun of every call"
)]

use std::time::Duration;

use cframe_protocol::v1::{Call, CallError, ErrorCode, PROTOCOL, Reply};

use super::{audit, renew_order, request::Request, status, wait};
use crate::{
    backup,
    decide::{
        admin, ca, call::Noun, cert, check, controller, edge, namespace, route, steps, store, token,
    },
    keys::issuer::verify_csr,
    model::{
        State,
        record::{EdgeRecord, Key},
    },
    peers,
    sessions::{
        Claim,
        all::{self, SessionFilter},
    },
};

type Answer = Result<Reply, CallError>;

/// Carries out a call. `None` if the answer was sent already.
pub(super) async fn dispatch(
    request: &Request<'_>,
    call: Call,
) -> Result<Option<Reply>, CallError> {
    let reply = match request.call.noun {
        Noun::Stream => return stream(request, call).await.map(|()| None),
        Noun::Mesh => mesh(request, call).await,
        Noun::Namespace => namespaces(request, call).await,
        Noun::Edge => edges(request, call).await,
        Noun::Route => routes(request, call).await,
        Noun::Token => tokens(request, call).await,
        Noun::Cert => certs(request, call).await,
        Noun::Admin => admins(request, call).await,
        Noun::Ca => cas(request, call).await,
        Noun::Controller => controllers(request, call).await,
    };
    reply.map(Some)
}

/// Calls whose answer goes on for a while.
async fn stream(request: &Request<'_>, call: Call) -> Result<(), CallError> {
    let Request { context, replies, .. } = request;
    match call {
        Call::Wait { namespace, version, timeout_secs } => {
            wait::wait(context, &namespace, version, timeout_secs, replies).await
        }
        Call::Behind { namespace, version, timeout_secs } => {
            wait::send_behind(context, &namespace, version, timeout_secs, replies).await
        }
        Call::Audit(query) => audit::answer(request, &query).await,
        _ => Err(request.unknown()),
    }
}

async fn mesh(request: &Request<'_>, call: Call) -> Answer {
    let (context, replica) = (request.context, &request.context.replica);
    match call {
        Call::Version => Ok(Reply::Version {
            software: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
        }),
        Call::Status if request.by_controller() => Ok(Reply::Status(status::own_part(context))),
        Call::Status => Ok(Reply::Status(status::status(context, request.now).await)),
        Call::TrustShow => Ok(Reply::Trust(replica.read(|state| state.mesh.record.trust.clone()))),
        Call::Backup => {
            let dump = backup::dump(&**replica.store(), request.now).await;
            dump.map(Reply::Chunk).map_err(|error| {
                CallError::new(ErrorCode::Unavailable, format!("no backup: {error}"))
            })
        }
        Call::StoreAccept => request.change(|state| Ok(store::accept(state, request.now))).await,
        Call::Sessions { namespace, edge, brief } => {
            let (namespace, edge) = (namespace.as_ref(), edge.as_ref());
            let filter = SessionFilter { namespace, edge, brief };
            Ok(Reply::Sessions(all::own_rows(&replica.sessions, filter)))
        }
        Call::Claim { namespace, edge, boot, address } => {
            let key = (namespace, edge);
            let claim = Claim {
                key: &key,
                boot,
                address,
                rtt: Duration::ZERO,
                now: replica.now(),
                is_elsewhere: true,
            };
            if replica.sessions.admits(&claim).await {
                return Ok(Reply::Sessions(Vec::new()));
            }
            let (namespace, edge) = (Some(&key.0), Some(&key.1));
            let filter = SessionFilter { namespace, edge, brief: true };
            Ok(Reply::Sessions(all::own_rows(&replica.sessions, filter)))
        }
        _ => Err(request.unknown()),
    }
}

async fn namespaces(request: &Request<'_>, call: Call) -> Answer {
    let (replica, now) = (&request.context.replica, request.now);
    match call {
        Call::NamespaceAdd { name, settings, description } => {
            request.change(|state| namespace::add(state, &name, settings, &description)).await
        }
        Call::NamespaceSet { name, tun_mtu, congestion } => {
            request.change(|state| namespace::set(state, &name, tun_mtu, congestion)).await
        }
        Call::NamespaceDel { name, cascade } => {
            let decide = |state: &State| namespace::delete(state, &name, cascade, now);
            let step = |state: &State, room| steps::of_namespace(state, &name, room, now);
            request.change_in_steps(decide, step).await
        }
        Call::NamespaceList => Ok(replica.read(namespace::list)),
        Call::NamespaceShow { name } => replica.read(|state| namespace::show(state, &name)),
        _ => Err(request.unknown()),
    }
}

async fn edges(request: &Request<'_>, call: Call) -> Answer {
    let (context, replica, now) = (request.context, &request.context.replica, request.now);
    match call {
        Call::EdgeAdd { namespace, name, cidrs, endpoints, description } => {
            let record = EdgeRecord { description, cidrs, endpoints, ..EdgeRecord::default() };
            request.change(|state| edge::add(state, &namespace, &name, record.clone())).await
        }
        Call::EdgeSet { namespace, name, cidrs, endpoints, description, no_link_to } => {
            let change = edge::Change {
                cidrs: cidrs.as_deref(),
                endpoints: endpoints.as_deref(),
                description: description.as_deref(),
                no_link_to: no_link_to.as_deref(),
            };
            request.change(|state| edge::set(state, &namespace, &name, &change)).await
        }
        Call::EdgeDel { namespace, name } => {
            let decide = |state: &State| edge::delete(state, &namespace, &name, now);
            let step = |state: &State, room| steps::of_edge(state, &namespace, &name, room);
            request.change_in_steps(decide, step).await
        }
        Call::EdgeList { namespace } => {
            let namespace = namespace.as_ref();
            // Before other controllers are asked.
            replica.read(|state| check::namespaces(state, namespace).map(drop))?;
            let filter = SessionFilter { namespace, ..SessionFilter::default() };
            let sessions = peers::all_sessions(context, filter).await;
            replica.read(|state| edge::list(state, &sessions, namespace, now))
        }
        Call::EdgeShow { namespace, name } => {
            replica.read(|state| edge::find_in(state, &namespace, &name).map(drop))?;
            let filter =
                SessionFilter { namespace: Some(&namespace), edge: Some(&name), brief: false };
            let of_namespace =
                SessionFilter { namespace: Some(&namespace), edge: None, brief: true };
            let (sessions, all) = tokio::join!(
                peers::all_sessions(context, filter),
                peers::all_sessions(context, of_namespace)
            );
            replica.read(|state| edge::show(state, &sessions, &all, (&namespace, &name), now))
        }
        _ => Err(request.unknown()),
    }
}

async fn routes(request: &Request<'_>, call: Call) -> Answer {
    let replica = &request.context.replica;
    match call {
        Call::RouteAdd { namespace, name, prefix, edge } => {
            request.change(|state| route::add(state, &namespace, &name, prefix, &edge)).await
        }
        Call::RouteDel { namespace, name } => {
            request.change(|state| route::delete(state, &namespace, &name)).await
        }
        Call::RouteList { namespace } => {
            replica.read(|state| route::list(state, namespace.as_ref()))
        }
        Call::RouteShow { namespace, name } => {
            replica.read(|state| route::show(state, &namespace, &name))
        }
        _ => Err(request.unknown()),
    }
}

async fn tokens(request: &Request<'_>, call: Call) -> Answer {
    let (context, now) = (request.context, request.now);
    match call {
        Call::TokenCreate { namespace, edge, ttl_secs, rejoin } => {
            let by = &request.caller.name;
            let wanted = token::Wanted { namespace: &namespace, edge: &edge, ttl_secs, rejoin, by };
            let pin = context.issuer.current().pin();
            let new = token::NewToken::generate(pin, context.name(), context.enroll_port)?;
            let decide = |state: &State| token::create(state, &wanted, &new, now);
            request.create(decide, Reply::TokenMade).await
        }
        Call::TokenRevoke { id } => request.change(|state| token::revoke(state, &id)).await,
        Call::TokenList { namespace } => {
            context.replica.read(|state| token::list(state, namespace.as_ref(), now))
        }
        _ => Err(request.unknown()),
    }
}

async fn certs(request: &Request<'_>, call: Call) -> Answer {
    let (context, now) = (request.context, request.now);
    match call {
        Call::CertEnroll { namespace, edge, csr } => {
            let csr = verify_csr(&csr)?;
            let issuer = context.issuer.current();
            let decide = |state: &State| cert::enroll(state, &issuer, &namespace, &edge, &csr, now);
            request.create(decide, Reply::Enrolled).await
        }
        Call::CertRenew { namespace, edge } => renew_order::renew(request, &namespace, &edge).await,
        Call::CertRevoke { serial, reason } => {
            let serving = context.credentials.identity().serial;
            let own = cert::Own { caller: request.caller.peer.serial, serving };
            request.change(|state| cert::revoke(state, serial, &reason, &own, now)).await
        }
        Call::CertList { namespace } => {
            Ok(context.replica.read(|state| cert::list(state, namespace.as_ref(), now)))
        }
        Call::CertShow { serial } => context.replica.read(|state| cert::show(state, serial, now)),
        _ => Err(request.unknown()),
    }
}

async fn admins(request: &Request<'_>, call: Call) -> Answer {
    let (context, caller, now) = (request.context, request.caller, request.now);
    match call {
        Call::AdminAdd { name, csr, read_only } => {
            let csr = verify_csr(&csr)?;
            let issuer = context.issuer.current();
            let decide = |state: &State| {
                let own = request.admin_revision(state)?;
                let (mut draft, enrolled) =
                    admin::add(state, &issuer, (&name, read_only), &csr, &caller.name, now)?;
                draft.compare(Key::Admin(caller.name.clone()), own);
                draft.compare(Key::Denied(caller.peer.serial), 0);
                Ok((draft, enrolled))
            };
            request.create(decide, Reply::AdminEnrolled).await
        }
        Call::AdminDel { name } => {
            request.change(|state| admin::delete(state, &name, &caller.name, now)).await
        }
        Call::AdminList => Ok(context.replica.read(|state| admin::list(state, now))),
        _ => Err(request.unknown()),
    }
}

async fn cas(request: &Request<'_>, call: Call) -> Answer {
    let (context, caller, now) = (request.context, &request.caller.peer, request.now);
    match call {
        Call::CaStatus => {
            let sessions = peers::all_sessions(context, SessionFilter::BRIEF).await;
            Ok(Reply::Ca(context.replica.read(|state| ca::status(state, &sessions, now))))
        }
        Call::CaHolders { fingerprint } => {
            let sessions = peers::all_sessions(context, SessionFilter::BRIEF).await;
            let holders =
                context.replica.read(|state| ca::holders(state, &sessions, fingerprint, now));
            Ok(Reply::Holders(holders))
        }
        Call::IssuerRevoke { fingerprint } => {
            let own = context.issuer.current().ca().spki_sha256();
            request.change(|state| cert::revoke_issuer(state, fingerprint, own, caller, now)).await
        }
        Call::RootAdd { certificate } => {
            request.change(|state| ca::add_root(state, &certificate, now)).await
        }
        Call::RootDrop { fingerprint, force } => {
            let ends = ca::Ends { caller, own: context.issuer.current().pin() };
            let sessions = &peers::all_sessions(context, SessionFilter::BRIEF).await;
            let decide =
                |state: &State| ca::drop_root(state, sessions, fingerprint, &ends, force, now);
            request.change(decide).await
        }
        _ => Err(request.unknown()),
    }
}

async fn controllers(request: &Request<'_>, call: Call) -> Answer {
    let (context, now) = (request.context, request.now);
    match call {
        Call::ControllerList => context.replica.read(controller::list),
        Call::ControllerShow { name } => {
            context.replica.read(|state| controller::show(state, &name))
        }
        Call::ControllerDel { name, revoke_issuer } => {
            let own = context.name();
            let decide = |state: &State| controller::delete(state, &name, revoke_issuer, &own, now);
            request.change(decide).await
        }
        _ => Err(request.unknown()),
    }
}

use cframe_console::exit::Exit;
use cframe_pki::identity::Label;
use cframe_protocol::v1::Call;

use crate::{
    args::RouteVerb,
    controller::{Controller, first, kind},
    failure::Failure,
    impact,
    session::{Consent, Session, WaitFor},
    view::{Route, Subject},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: RouteVerb,
) -> Result<Exit, Failure> {
    match verb {
        RouteVerb::Add(add) => {
            let namespace = session.namespace()?;
            let subject = Subject::of("route", &namespace, &add.name);
            let wait_for = WaitFor::Namespace(namespace.clone());
            let (name, prefix, edge) = (add.name, add.cidr, add.edge);
            let call = Call::RouteAdd { namespace, name, prefix, edge };
            session.make_change(call, subject, "added", wait_for).await
        }
        RouteVerb::Del { name } => del(session, name).await,
        RouteVerb::List { all_namespaces } => {
            let namespace = session.scope(all_namespaces);
            let rows = session.query(Call::RouteList { namespace }, kind!(Routes)).await?;
            session.list::<Route>(rows)
        }
        RouteVerb::Show { name } => {
            let namespace = session.namespace()?;
            let show = Call::RouteShow { namespace, name };
            let row = first(session.query(show, kind!(Routes)).await?)?;
            session.one(&Route::from(row))
        }
    }
}

async fn del<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    if session.consent("route del")? == Consent::Needed {
        let show = Call::RouteShow { namespace: namespace.clone(), name: name.clone() };
        let route = first(session.query(show, kind!(Routes)).await?)?;
        let list = Call::EdgeList { namespace: Some(namespace.clone()) };
        let edges = session.query(list, kind!(Edges)).await?;
        let lost = impact::route_del(&edges, &route);
        if !lost.is_empty() {
            session.confirm(&lost).await?;
        }
    }
    let subject = Subject::of("route", &namespace, &name);
    let wait_for = WaitFor::Namespace(namespace.clone());
    session.make_change(Call::RouteDel { namespace, name }, subject, "removed", wait_for).await
}

//! `cfctl route …`

use cframe_pki::identity::Label;
use cframe_protocol::v1::Call;

use crate::{
    args::RouteVerb,
    controller::{Controller, first, kind, rows},
    failure::{Exit, Failure},
    impact,
    session::{Consent, Reach, Session},
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
            let reach = Reach::Namespace(namespace.clone());
            let (name, prefix, edge) = (add.name, add.cidr, add.edge);
            let call = Call::RouteAdd { namespace, name, prefix, edge };
            session.change(call, subject, "added", reach).await
        }
        RouteVerb::Del { name } => del(session, name).await,
        RouteVerb::List { all_namespaces } => {
            let namespace = session.scope(all_namespaces);
            let rows = rows(session.ask(Call::RouteList { namespace }).await?, kind!(Routes))?;
            let routes: Vec<_> = rows.into_iter().map(Route::from).collect();
            session.list(&routes)
        }
        RouteVerb::Show { name } => {
            let namespace = session.namespace()?;
            let replies = session.ask(Call::RouteShow { namespace, name }).await?;
            session.one(&Route::from(first(rows(replies, kind!(Routes))?)?))
        }
    }
}

async fn del<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    if session.consent("route del")? == Consent::ToAsk {
        let show = Call::RouteShow { namespace: namespace.clone(), name: name.clone() };
        let route = first(rows(session.ask(show).await?, kind!(Routes))?)?;
        let edges = session.edges(Call::EdgeList { namespace: Some(namespace.clone()) }).await?;
        let lost = impact::route_del(&edges, &route);
        if !lost.is_empty() {
            session.confirm(&lost).await?;
        }
    }
    let subject = Subject::of("route", &namespace, &name);
    let reach = Reach::Namespace(namespace.clone());
    session.change(Call::RouteDel { namespace, name }, subject, "removed", reach).await
}

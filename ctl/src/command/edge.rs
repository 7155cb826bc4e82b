//! `cfctl edge …`

use cframe_pki::identity::Label;
use cframe_protocol::v1::Call;

use crate::{
    args::{EdgeSet, EdgeVerb},
    controller::{Controller, first},
    failure::{Exit, Failure},
    impact,
    session::{Consent, Reach, Session},
    view::{Edge, Subject},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: EdgeVerb,
) -> Result<Exit, Failure> {
    match verb {
        EdgeVerb::Add(add) => {
            let namespace = session.namespace()?;
            let subject = Subject::of("edge", &namespace, &add.name);
            let reach = Reach::Namespace(namespace.clone());
            let call = Call::EdgeAdd {
                namespace,
                name: add.name,
                cidrs: add.cidr,
                endpoints: add.endpoint,
                description: add.description.unwrap_or_default(),
            };
            session.change(call, subject, "added", reach).await
        }
        EdgeVerb::Set(change) => set(session, change).await,
        EdgeVerb::Del { name } => del(session, name).await,
        EdgeVerb::List { all_namespaces } => {
            let namespace = session.scope(all_namespaces);
            let rows = session.edges(Call::EdgeList { namespace }).await?;
            let edges: Vec<_> = rows.into_iter().map(Edge::from).collect();
            session.list(&edges)
        }
        EdgeVerb::Show { name } => {
            let namespace = session.namespace()?;
            let row = first(session.edges(Call::EdgeShow { namespace, name }).await?)?;
            session.one(&Edge::from(row))
        }
    }
}

async fn set<C: Controller>(
    session: &mut Session<'_, '_, C>,
    set: EdgeSet,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    let given = session.terms.yes && !session.terms.dry_run;
    if let Some(cidrs) = set.cidr.as_ref().filter(|_| !given) {
        let edges = session.edges(Call::EdgeList { namespace: Some(namespace.clone()) }).await?;
        let lost = impact::edge_set(&edges, &set.name, cidrs);
        if !lost.is_empty() {
            session.consent(&format!("edge set --cidr ({})", lost.join("; ")))?;
            session.confirm(&lost).await?;
        }
    }
    let subject = Subject::of("edge", &namespace, &set.name);
    let reach = Reach::Namespace(namespace.clone());
    let endpoints = set.endpoints();
    let EdgeSet { name, cidr: cidrs, description, .. } = set;
    let call = Call::EdgeSet { namespace, name, cidrs, endpoints, description };
    session.change(call, subject, "changed", reach).await
}

async fn del<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    if session.consent("edge del")? == Consent::ToAsk {
        // Finds a wrong name before the question.
        session.ask(Call::EdgeShow { namespace: namespace.clone(), name: name.clone() }).await?;
        let (edges, routes) = session.site(&namespace).await?;
        session.confirm(&impact::edge_del(&edges, &routes, &namespace, &name)).await?;
    }
    let subject = Subject::of("edge", &namespace, &name);
    let reach = Reach::Namespace(namespace.clone());
    session.change(Call::EdgeDel { namespace, name }, subject, "removed", reach).await
}

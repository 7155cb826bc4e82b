use cframe_console::exit::Exit;
use cframe_pki::identity::Label;
use cframe_protocol::v1::Call;

use crate::{
    args::{EdgeSet, EdgeVerb},
    controller::{Controller, first, kind},
    failure::Failure,
    impact,
    session::{Consent, Session, WaitFor},
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
            let wait_for = WaitFor::Namespace(namespace.clone());
            let call = Call::EdgeAdd {
                namespace,
                name: add.name,
                cidrs: add.cidr,
                endpoints: add.endpoint,
                description: add.description.unwrap_or_default(),
            };
            session.make_change(call, subject, "added", wait_for).await
        }
        EdgeVerb::Set(change) => set(session, change).await,
        EdgeVerb::Del { name } => del(session, name).await,
        EdgeVerb::List { all_namespaces } => {
            let namespace = session.scope(all_namespaces);
            let rows = session.query(Call::EdgeList { namespace }, kind!(Edges)).await?;
            session.list::<Edge>(rows)
        }
        EdgeVerb::Show { name } => {
            let namespace = session.namespace()?;
            let row =
                first(session.query(Call::EdgeShow { namespace, name }, kind!(Edges)).await?)?;
            session.one(&Edge::with_problems(row))
        }
    }
}

async fn set<C: Controller>(
    session: &mut Session<'_, '_, C>,
    set: EdgeSet,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    let confirmed = session.options.yes && !session.options.dry_run;
    if let Some(cidrs) = set.cidr.as_ref().filter(|_| !confirmed) {
        let list = Call::EdgeList { namespace: Some(namespace.clone()) };
        let edges = session.query(list, kind!(Edges)).await?;
        let lost = impact::edge_set(&edges, &set.name, cidrs);
        if !lost.is_empty() {
            session.consent(&format!("edge set --cidr ({})", lost.join("; ")))?;
            session.confirm(&lost).await?;
        }
    }
    let subject = Subject::of("edge", &namespace, &set.name);
    let wait_for = WaitFor::Namespace(namespace.clone());
    let (endpoints, no_link_to) = (set.endpoints(), set.no_link_to());
    let EdgeSet { name, cidr: cidrs, description, .. } = set;
    let call = Call::EdgeSet { namespace, name, cidrs, endpoints, description, no_link_to };
    session.make_change(call, subject, "changed", wait_for).await
}

async fn del<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    if session.consent("edge del")? == Consent::Needed {
        // A wrong name is an error before the question.
        let show = Call::EdgeShow { namespace: namespace.clone(), name: name.clone() };
        session.query(show, kind!(Edges)).await?;
        let (edges, routes) = session.edges_and_routes(&namespace).await?;
        session.confirm(&impact::edge_del(&edges, &routes, &namespace, &name)).await?;
    }
    let subject = Subject::of("edge", &namespace, &name);
    let wait_for = WaitFor::Namespace(namespace.clone());
    session.make_change(Call::EdgeDel { namespace, name }, subject, "removed", wait_for).await
}

use cframe_console::exit::Exit;
use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, Settings};

use crate::{
    args::NamespaceVerb,
    controller::{Controller, first, kind},
    failure::Failure,
    impact,
    session::{Consent, Session, WaitFor},
    view::{Namespace, Subject},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: NamespaceVerb,
) -> Result<Exit, Failure> {
    match verb {
        NamespaceVerb::Add(add) => {
            let default = Settings::default();
            let settings = Settings {
                tun_mtu: add.tun_mtu.unwrap_or(default.tun_mtu),
                congestion: add.congestion.map_or(default.congestion, Into::into),
            };
            let subject = Subject::of_mesh("namespace", &add.name);
            let description = add.description.unwrap_or_default();
            let call = Call::NamespaceAdd { name: add.name, settings, description };
            session.make_change(call, subject, "added", WaitFor::Nobody).await
        }
        NamespaceVerb::Set(set) => {
            let subject = Subject::of_mesh("namespace", &set.name);
            let wait_for = WaitFor::Namespace(set.name.clone());
            let congestion = set.congestion.map(Into::into);
            let call = Call::NamespaceSet { name: set.name, tun_mtu: set.tun_mtu, congestion };
            session.make_change(call, subject, "changed", wait_for).await
        }
        NamespaceVerb::Del { name, cascade } => del(session, name, cascade).await,
        NamespaceVerb::List => {
            let rows = session.query(Call::NamespaceList, kind!(Namespaces)).await?;
            session.list::<Namespace>(rows)
        }
        NamespaceVerb::Show { name } => {
            let row = first(session.query(Call::NamespaceShow { name }, kind!(Namespaces)).await?)?;
            session.one(&Namespace::from(row))
        }
    }
}

async fn del<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
    cascade: bool,
) -> Result<Exit, Failure> {
    // Without --cascade the controller refuses what would break traffic.
    if cascade && session.consent("namespace del --cascade")? == Consent::Needed {
        let row = first(
            session.query(Call::NamespaceShow { name: name.clone() }, kind!(Namespaces)).await?,
        )?;
        let (edges, routes) = session.edges_and_routes(&name).await?;
        session.confirm(&impact::namespace_del(&row, &edges, &routes)).await?;
    }
    let subject = Subject::of_mesh("namespace", &name);
    let call = Call::NamespaceDel { name, cascade };
    session.make_change(call, subject, "removed", WaitFor::Nobody).await
}

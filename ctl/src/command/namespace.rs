//! `cfctl namespace …`

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, Settings};

use crate::{
    args::NamespaceVerb,
    controller::{Controller, first, kind, rows},
    failure::{Exit, Failure},
    impact,
    session::{Consent, Reach, Session},
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
            session.change(call, subject, "added", Reach::Nobody).await
        }
        NamespaceVerb::Set(set) => {
            let subject = Subject::of_mesh("namespace", &set.name);
            let reach = Reach::Namespace(set.name.clone());
            let congestion = set.congestion.map(Into::into);
            let call = Call::NamespaceSet { name: set.name, tun_mtu: set.tun_mtu, congestion };
            session.change(call, subject, "changed", reach).await
        }
        NamespaceVerb::Del { name, cascade } => del(session, name, cascade).await,
        NamespaceVerb::List => {
            let rows = rows(session.ask(Call::NamespaceList).await?, kind!(Namespaces))?;
            let namespaces: Vec<_> = rows.into_iter().map(Namespace::from).collect();
            session.list(&namespaces)
        }
        NamespaceVerb::Show { name } => {
            let replies = session.ask(Call::NamespaceShow { name }).await?;
            let row = first(rows(replies, kind!(Namespaces))?)?;
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
    if cascade && session.consent("namespace del --cascade")? == Consent::ToAsk {
        let replies = session.ask(Call::NamespaceShow { name: name.clone() }).await?;
        let row = first(rows(replies, kind!(Namespaces))?)?;
        let (edges, routes) = session.site(&name).await?;
        session.confirm(&impact::namespace_del(&row, &edges, &routes)).await?;
    }
    let subject = Subject::of_mesh("namespace", &name);
    let call = Call::NamespaceDel { name, cascade };
    session.change(call, subject, "removed", Reach::Nobody).await
}

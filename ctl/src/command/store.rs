use cframe_console::exit::Exit;
use cframe_protocol::v1::Call;

use crate::{
    args::StoreVerb,
    controller::Controller,
    failure::Failure,
    session::{Consent, Session, WaitFor},
    view::Subject,
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: StoreVerb,
) -> Result<Exit, Failure> {
    match verb {
        StoreVerb::Accept => accept(session).await,
    }
}

async fn accept<C: Controller>(session: &mut Session<'_, '_, C>) -> Result<Exit, Failure> {
    if session.consent("store accept")? == Consent::Needed {
        let mut impact = vec![
            "every edge replaces its state by that of the store, which may be older".to_owned(),
        ];
        impact.extend(session.warnings_before(Call::StoreAccept).await?);
        session.confirm(&impact).await?;
    }
    let subject = Subject::of_mesh("store", "mesh");
    session.make_change(Call::StoreAccept, subject, "accepted", WaitFor::Mesh).await
}

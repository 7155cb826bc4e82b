//! `cfctl trust …`

use cframe_pki::Fingerprint;
use cframe_protocol::v1::Call;

use crate::{
    args::TrustVerb,
    context::Contexts,
    controller::{Controller, kind, one, rows},
    failure::{Exit, Failure},
    impact,
    session::{Consent, Reach, Session},
    view::{Subject, Trust},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: TrustVerb,
) -> Result<Exit, Failure> {
    match verb {
        TrustVerb::Show => {
            let bundle = one(session.ask(Call::TrustShow).await?, kind!(Trust))?;
            session.console.answer(&Trust::from(bundle))?;
            Ok(Exit::Done)
        }
        TrustVerb::Revoke { fingerprint } => revoke(session, fingerprint).await,
    }
}

async fn revoke<C: Controller>(
    session: &mut Session<'_, '_, C>,
    fingerprint: Fingerprint,
) -> Result<Exit, Failure> {
    if session.consent("trust revoke")? == Consent::ToAsk {
        let call = Call::CaHolders { fingerprint };
        let holders = rows(session.ask(call).await?, kind!(Holders))?;
        session.confirm(&impact::revoke_issuer(fingerprint, &holders)).await?;
    }
    let changed = session.apply(Call::IssuerRevoke { fingerprint }).await?;
    if !session.terms.dry_run {
        distrust(session, fingerprint)?;
    }
    let version = changed.version;
    let change = session.made(Subject::of_mesh("trust", fingerprint), "revoked", changed);
    session.tell(&[change])?;
    session.settle(Reach::Mesh, version).await
}

/// Has this machine's own context refuse a controller of that CA from now on.
fn distrust<C: Controller>(
    session: &Session<'_, '_, C>,
    fingerprint: Fingerprint,
) -> Result<(), Failure> {
    let Some((path, name)) = &session.context else {
        return Ok(());
    };
    let mut contexts = Contexts::load(path)?;
    if let Some(context) = contexts.contexts.get_mut(name) {
        context.revoked_issuers.insert(fingerprint);
        contexts.save(path)?;
    }
    Ok(())
}

use cframe_console::exit::Exit;
use cframe_pki::Fingerprint;
use cframe_protocol::v1::Call;

use crate::{
    args::TrustVerb,
    context::Contexts,
    controller::{Controller, kind},
    failure::Failure,
    session::{Consent, Session, WaitFor},
    view::{Subject, Trust},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: TrustVerb,
) -> Result<Exit, Failure> {
    match verb {
        TrustVerb::Show => {
            let bundle = session.query(Call::TrustShow, kind!(Trust)).await?;
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
    let call = Call::IssuerRevoke { fingerprint };
    if session.consent("trust revoke")? == Consent::Needed {
        let mut impact =
            vec![format!("no certificate that issuing CA {fingerprint} has signed works any more")];
        impact.extend(session.warnings_before(call.clone()).await?);
        session.confirm(&impact).await?;
    }
    let changed = session.send_change(call).await?;
    if !session.options.dry_run {
        save_revoked(session, fingerprint)?;
    }
    let version = changed.version;
    let change =
        session.describe_change(Subject::of_mesh("trust", fingerprint), "revoked", changed);
    session.print_changes(&[change])?;
    session.wait(WaitFor::Mesh, version).await
}

/// Saves in this machine's context that the CA is revoked, so that it refuses controllers with its
/// certificates.
fn save_revoked<C: Controller>(
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

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use cframe_console::exit::Exit;
use cframe_pki::{
    CertificateDer, certificate_pem,
    identity::{Label, PeerIdentity},
    key::PrivateKey,
};
use cframe_protocol::v1::{AdminEnrolled, Call};

use crate::{
    args::AdminVerb,
    context::{Context, Contexts},
    controller::{Controller, kind, one},
    failure::Failure,
    session::{Session, WaitFor},
    timestamp::Timestamp,
    view::{Admin, NewAdmin, Subject},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: AdminVerb,
) -> Result<Exit, Failure> {
    match verb {
        AdminVerb::Add { name, read_only, out } => add(session, name, read_only, out).await,
        AdminVerb::Del { name } => {
            let subject = Subject::of_mesh("admin", &name);
            session.make_change(Call::AdminDel { name }, subject, "removed", WaitFor::Nobody).await
        }
        AdminVerb::List => {
            let rows = session.query(Call::AdminList, kind!(Admins)).await?;
            session.list::<Admin>(rows)
        }
    }
}

async fn add<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
    read_only: bool,
    out: PathBuf,
) -> Result<Exit, Failure> {
    // Before the call: without a file the new admin has no certificate.
    if out.symlink_metadata().is_ok() {
        let message = format!("{} exists", out.display());
        return Err(Failure::new(Exit::Conflict, message).hint("name a new file with --out"));
    }
    let key = PrivateKey::generate().context("making a key")?;
    let csr = key.csr().context("making a signing request")?.to_vec();
    let call = Call::AdminAdd { name: name.clone(), csr, read_only };
    let replies = session.controller.call(call, session.options.dry_run).await?;
    if session.options.dry_run {
        return session.print_dry_run(replies, Subject::of_mesh("admin", name), "added");
    }
    let enrolled = one(replies, kind!(AdminEnrolled))?;
    let chain: Vec<_> = enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
    let identity = PeerIdentity::from_chain(&chain).context("the new certificate")?;
    contexts(&key, &enrolled).create(&out).map_err(|failure| {
        failure.hint(format!("the admin was added, but without a file: cfctl admin del {name}"))
    })?;
    let shown = out.display();
    session.console.info(&format!(
        "{shown} has the key of admin {name}; hand it over in a safe way, for \
         `cfctl context import {shown}`"
    ));
    let not_after = Timestamp(identity.not_after);
    session
        .one(&NewAdmin { admin: Admin { name: name.to_string(), read_only, not_after }, file: out })
}

fn contexts(key: &PrivateKey, enrolled: &AdminEnrolled) -> Contexts {
    let context = Context {
        mesh: enrolled.mesh.clone(),
        controllers: enrolled.controllers.clone(),
        namespace: None,
        certificate: enrolled.chain.iter().map(|der| certificate_pem(der)).collect(),
        key: key.to_pem().to_string(),
        trust: enrolled.trust.roots.iter().map(|root| certificate_pem(root)).collect(),
        revoked_issuers: enrolled.trust.revoked_issuers.clone(),
    };
    let name = enrolled.mesh.to_string();
    Contexts { current: Some(name.clone()), contexts: BTreeMap::from([(name, context)]) }
}

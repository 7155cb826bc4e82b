//! `cfctl admin …`

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use cframe_pki::{
    CertificateDer,
    identity::{Label, PeerIdentity},
    key::PrivateKey,
};
use cframe_protocol::v1::{AdminEnrolled, Call};

use crate::{
    args::AdminVerb,
    context::{Context, Contexts},
    controller::{Controller, kind, one, rows},
    failure::{Exit, Failure},
    moment::Moment,
    pem,
    session::{Reach, Session},
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
            session.change(Call::AdminDel { name }, subject, "removed", Reach::Nobody).await
        }
        AdminVerb::List => {
            let rows = rows(session.ask(Call::AdminList).await?, kind!(Admins))?;
            let admins: Vec<_> = rows.into_iter().map(Admin::from).collect();
            session.list(&admins)
        }
    }
}

async fn add<C: Controller>(
    session: &mut Session<'_, '_, C>,
    name: Label,
    read_only: bool,
    out: PathBuf,
) -> Result<Exit, Failure> {
    // Before the call: an admin without a file could never log in.
    if out.symlink_metadata().is_ok() {
        let message = format!("{} exists", out.display());
        return Err(Failure::new(Exit::Conflict, message).hint("name a new file with --out"));
    }
    let key = PrivateKey::generate().context("making a key")?;
    let csr = key.csr().context("making a signing request")?.to_vec();
    let call = Call::AdminAdd { name: name.clone(), csr, read_only };
    let replies = session.controller.call(call, session.terms.dry_run).await?;
    if session.terms.dry_run {
        return session.rehearsed(replies, Subject::of_mesh("admin", name), "added");
    }
    let enrolled = one(replies, kind!(AdminEnrolled))?;
    let chain: Vec<_> = enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
    let identity = PeerIdentity::from_chain(&chain).context("the new certificate")?;
    contexts(&key, &enrolled).create(&out).map_err(|failure| {
        failure.hint(format!("the admin is there, the file is not: cfctl admin del {name}"))
    })?;
    let shown = out.display();
    session.console.note(&format!(
        "{shown} makes its owner admin {name}; hand it over on a safe way, for \
         `cfctl context import {shown}`"
    ));
    session.one(&NewAdmin {
        name: name.to_string(),
        read_only,
        not_after: Moment(identity.not_after),
        file: out,
    })
}

fn contexts(key: &PrivateKey, enrolled: &AdminEnrolled) -> Contexts {
    let blocks = |der: &[Vec<u8>]| der.iter().map(|der| pem::certificate(der)).collect::<String>();
    let context = Context {
        mesh: enrolled.mesh.clone(),
        controllers: enrolled.controllers.clone(),
        namespace: None,
        certificate: blocks(&enrolled.chain),
        key: key.to_pem().to_string(),
        trust: enrolled.trust.roots.iter().map(|root| pem::certificate(root)).collect(),
        revoked_issuers: enrolled.trust.revoked_issuers.clone(),
    };
    let name = enrolled.mesh.to_string();
    Contexts { current: Some(name.clone()), contexts: BTreeMap::from([(name, context)]) }
}

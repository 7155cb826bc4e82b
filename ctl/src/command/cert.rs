//! `cfctl cert …`

use std::{
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context as _;
use cframe_pki::{
    CertificateDer,
    identity::{Label, PeerIdentity, Role},
};
use cframe_protocol::v1::{Call, CertRow, CertState};

use crate::{
    args::{CertEnroll, CertRevoke, CertVerb},
    console::Console,
    controller::{Controller, first, kind, one, rows},
    enrollment,
    failure::{Exit, Failure},
    impact,
    moment::Moment,
    pem,
    session::{Consent, Reach, Session},
    view::{Cert, NewCert, Subject},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: CertVerb,
) -> Result<Exit, Failure> {
    match verb {
        CertVerb::Enroll(request) => enroll(session, request).await,
        CertVerb::List { edge, all_namespaces } => {
            let namespace = session.scope(all_namespaces);
            let mut certs = rows(session.ask(Call::CertList { namespace }).await?, kind!(Certs))?;
            certs.retain(|cert| edge.as_ref().is_none_or(|edge| is_of(cert, edge)));
            certs.sort_by_key(|cert| std::cmp::Reverse(cert.not_before));
            let certs: Vec<_> = certs.into_iter().map(Cert::from).collect();
            session.list(&certs)
        }
        CertVerb::Show { serial } => {
            let row = first(rows(session.ask(Call::CertShow { serial }).await?, kind!(Certs))?)?;
            session.one(&Cert::from(row))
        }
        CertVerb::Renew { edge } => {
            let namespace = session.namespace()?;
            let subject = Subject::of("edge", &namespace, &edge);
            let call = Call::CertRenew { namespace, edge };
            session.change(call, subject, "asked to renew", Reach::Nobody).await
        }
        CertVerb::Revoke(which) => revoke(session, which).await,
    }
}

fn is_of(cert: &CertRow, edge: &Label) -> bool {
    matches!(&cert.id.role, Role::Edge { name, .. } if name == edge)
}

async fn enroll<C: Controller>(
    session: &mut Session<'_, '_, C>,
    request: CertEnroll,
) -> Result<Exit, Failure> {
    let CertEnroll { csr, edge, out_dir } = request;
    let namespace = session.namespace()?;
    let content = read(session.console, &csr).with_context(|| format!("{}", csr.display()))?;
    let der = pem::signing_request(&content)
        .with_context(|| format!("{} is not a signing request", csr.display()))?;
    // Before the call, which can't be taken back.
    std::fs::create_dir_all(&out_dir).with_context(|| format!("{}", out_dir.display()))?;
    let subject = Subject::of("cert", &namespace, &edge);
    let call = Call::CertEnroll { namespace, edge, csr: der };
    let replies = session.controller.call(call, session.terms.dry_run).await?;
    if session.terms.dry_run {
        return session.rehearsed(replies, subject, "issued");
    }
    let enrolled = one(replies, kind!(Enrolled))?;
    let chain: Vec<_> = enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
    let identity = PeerIdentity::from_chain(&chain).context("the new certificate")?;
    let files = enrollment::write(&out_dir, &enrolled)?;
    session.console.note(&format!(
        "copy {} to the gateway, and run there: cframe-edge import {}",
        out_dir.join(enrollment::ANSWER_FILE).display(),
        enrollment::ANSWER_FILE
    ));
    session.one(&NewCert {
        serial: identity.serial.to_string(),
        not_after: Moment(identity.not_after),
        files,
        enrolled,
    })
}

fn read(console: &mut Console<'_>, path: &Path) -> io::Result<Vec<u8>> {
    // Far more than any request.
    const LIMIT: u64 = 64 * 1024;
    let mut content = Vec::new();
    if path == Path::new("-") {
        (&mut *console.input).take(LIMIT).read_to_end(&mut content)?;
    } else {
        std::fs::File::open(path)?.take(LIMIT).read_to_end(&mut content)?;
    }
    Ok(content)
}

async fn revoke<C: Controller>(
    session: &mut Session<'_, '_, C>,
    which: CertRevoke,
) -> Result<Exit, Failure> {
    let consent = session.consent("cert revoke")?;
    let certs = select(session, &which).await?;
    let id = certs[0].id.clone();
    let namespace = id.role.namespace().cloned();
    if consent == Consent::ToAsk {
        let (edges, routes) = match &namespace {
            Some(namespace) => session.site(namespace).await?,
            None => Default::default(),
        };
        session.confirm(&impact::revoke(&id, certs.len(), &edges, &routes)).await?;
    }
    let mut changes = Vec::new();
    for cert in certs {
        let call = Call::CertRevoke {
            serial: cert.serial,
            reason: which.reason.clone().unwrap_or_default(),
        };
        let changed = session.apply(call).await?;
        let subject = match &namespace {
            Some(namespace) => Subject::of("cert", namespace, cert.serial),
            None => Subject::of_mesh("cert", cert.serial),
        };
        changes.push(session.made(subject, "revoked", changed));
    }
    session.tell(&changes)?;
    // The last has what the others have.
    let Some(last) = changes.last() else {
        return Ok(Exit::Done);
    };
    let reach = namespace.map_or(Reach::Mesh, Reach::Namespace);
    session.settle(reach, last.version).await
}

/// The certificates to revoke: one by its serial, or all that an edge can still use. Never none.
async fn select<C: Controller>(
    session: &mut Session<'_, '_, C>,
    which: &CertRevoke,
) -> Result<Vec<CertRow>, Failure> {
    if let Some(serial) = which.serial {
        let row = first(rows(session.ask(Call::CertShow { serial }).await?, kind!(Certs))?)?;
        return Ok(vec![row]);
    }
    let namespace = session.namespace()?;
    let Some(edge) = &which.edge else {
        return Err(Failure::new(Exit::Usage, "neither a serial nor --edge is given"));
    };
    let list = Call::CertList { namespace: Some(namespace.clone()) };
    let mut certs = rows(session.ask(list).await?, kind!(Certs))?;
    certs.retain(|cert| cert.state == CertState::Valid && is_of(cert, edge));
    if certs.is_empty() {
        let message = format!("edge {namespace}/{edge} has no valid certificate");
        return Err(
            Failure::new(Exit::NotFound, message).hint(format!("cfctl cert list -n {namespace}"))
        );
    }
    Ok(certs)
}

use std::{
    io::{self, Read as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use cframe_console::exit::Exit;
use cframe_pki::{
    CertificateDer, Serial,
    identity::{Label, PeerIdentity, Role},
};
use cframe_protocol::{
    problem::Code,
    v1::{Call, CertRow, CertState},
};

use crate::{
    args::{CertEnroll, CertRevoke, CertVerb},
    console::Console,
    controller::{Controller, first, kind, one},
    enrollment,
    failure::Failure,
    impact, pem,
    session::{Consent, Session, WaitFor},
    timestamp::Timestamp,
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
            let mut certs = session.query(Call::CertList { namespace }, kind!(Certs)).await?;
            certs.retain(|cert| edge.as_ref().is_none_or(|edge| is_of(cert, edge)));
            certs.sort_by_key(|cert| std::cmp::Reverse(cert.not_before));
            session.list::<Cert>(certs)
        }
        CertVerb::Show { serial } => {
            let row = first(session.query(Call::CertShow { serial }, kind!(Certs)).await?)?;
            session.one(&Cert::from(row))
        }
        CertVerb::Renew { edge } => {
            let namespace = session.namespace()?;
            renew(session, namespace, edge).await
        }
        CertVerb::Revoke(which) => revoke(session, which).await,
    }
}

/// For the edge to renew its certificate.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(15);
/// For a problem of the edge with the new certificate to be reported.
const PROBLEM_DELAY: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Orders the renewal, and waits until the certificate is issued or the edge reports why not.
async fn renew<C: Controller>(
    session: &mut Session<'_, '_, C>,
    namespace: Label,
    edge: Label,
) -> Result<Exit, Failure> {
    let before = certs_of(session, &namespace, &edge).await?;
    let subject = Subject::of("edge", &namespace, &edge);
    let call = Call::CertRenew { namespace: namespace.clone(), edge: edge.clone() };
    let exit = session.make_change(call, subject, "asked to renew", WaitFor::Nobody).await?;
    if session.options.dry_run {
        return Ok(exit);
    }
    let started = Instant::now();
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let certs = certs_of(session, &namespace, &edge).await?;
        let issued = certs.iter().any(|serial| !before.contains(serial));
        let waited = started.elapsed();
        // Before that, the edge may still report the last attempt.
        if waited >= PROBLEM_DELAY {
            if let Some(problem) = renewal_problem(session, &namespace, &edge).await? {
                return Err(Failure::new(Exit::Error, problem)
                    .hint(format!("run `cframe-edge doctor` on {edge}")));
            }
            if issued {
                session.console.info(&format!("edge {namespace}/{edge} has a new certificate"));
                return Ok(exit);
            }
        }
        if waited >= RENEWAL_TIMEOUT {
            let message = format!(
                "edge {namespace}/{edge} has not requested a new certificate after {} s",
                waited.as_secs()
            );
            return Err(Failure::new(Exit::Error, message)
                .hint(format!("run `cframe-edge doctor` on {edge}, and see its log")));
        }
    }
}

async fn certs_of<C: Controller>(
    session: &mut Session<'_, '_, C>,
    namespace: &Label,
    edge: &Label,
) -> Result<Vec<Serial>, Failure> {
    let list = Call::CertList { namespace: Some(namespace.clone()) };
    let certs = session.query(list, kind!(Certs)).await?;
    Ok(certs.iter().filter(|cert| is_of(cert, edge)).map(|cert| cert.serial).collect())
}

async fn renewal_problem<C: Controller>(
    session: &mut Session<'_, '_, C>,
    namespace: &Label,
    edge: &Label,
) -> Result<Option<String>, Failure> {
    let show = Call::EdgeShow { namespace: namespace.clone(), name: edge.clone() };
    let row = first(session.query(show, kind!(Edges)).await?)?;
    let codes = [Code::CertificateNotRenewed.name(), Code::CertificateInvalid.name()];
    let mut problems = row.problems.problems.into_iter();
    Ok(problems.find(|problem| codes.contains(&problem.code.as_str())).map(|found| found.text))
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
    let content =
        read(session.console, &csr).with_context(|| format!("cannot read {}", csr.display()))?;
    let der = pem::signing_request(&content)
        .with_context(|| format!("{} is not a signing request", csr.display()))?;
    // Before the call, which can't be undone.
    std::fs::create_dir_all(&out_dir)
        .with_context(|| format!("cannot make {}", out_dir.display()))?;
    let subject = Subject::of("cert", &namespace, &edge);
    let call = Call::CertEnroll { namespace, edge, csr: der };
    let replies = session.controller.call(call, session.options.dry_run).await?;
    if session.options.dry_run {
        return session.print_dry_run(replies, subject, "issued");
    }
    let enrolled = one(replies, kind!(Enrolled))?;
    let chain: Vec<_> = enrolled.chain.iter().cloned().map(CertificateDer::from).collect();
    let identity = PeerIdentity::from_chain(&chain).context("the new certificate")?;
    let files = enrollment::write(&out_dir, &enrolled)?;
    session.console.info(&format!(
        "copy {} to the gateway and run there: cframe-edge import {}",
        out_dir.join(enrollment::ANSWER_FILE).display(),
        enrollment::ANSWER_FILE
    ));
    session.one(&NewCert {
        serial: identity.serial.to_string(),
        not_after: Timestamp(identity.not_after),
        files,
        enrolled,
    })
}

fn read(console: &mut Console<'_>, path: &Path) -> io::Result<Vec<u8>> {
    /// A request is much smaller.
    const MAX_SIZE: u64 = 64 * 1024;
    let mut content = Vec::new();
    if path == Path::new("-") {
        (&mut *console.input).take(MAX_SIZE).read_to_end(&mut content)?;
    } else {
        std::fs::File::open(path)?.take(MAX_SIZE).read_to_end(&mut content)?;
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
    if consent == Consent::Needed {
        let (edges, routes) = match &namespace {
            Some(namespace) => session.edges_and_routes(namespace).await?,
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
        let changed = session.send_change(call).await?;
        let subject = match &namespace {
            Some(namespace) => Subject::of("cert", namespace, cert.serial),
            None => Subject::of_mesh("cert", cert.serial),
        };
        changes.push(session.describe_change(subject, "revoked", changed));
    }
    session.print_changes(&changes)?;
    // The version of the last change includes the others.
    let Some(last) = changes.last() else {
        return Ok(Exit::Done);
    };
    let wait_for = namespace.map_or(WaitFor::Mesh, WaitFor::Namespace);
    session.wait(wait_for, last.version).await
}

/// The certificates to revoke: one by its serial, or all valid ones of an edge; at least one.
async fn select<C: Controller>(
    session: &mut Session<'_, '_, C>,
    which: &CertRevoke,
) -> Result<Vec<CertRow>, Failure> {
    if let Some(serial) = which.serial {
        let row = first(session.query(Call::CertShow { serial }, kind!(Certs)).await?)?;
        return Ok(vec![row]);
    }
    let namespace = session.namespace()?;
    let Some(edge) = &which.edge else {
        return Err(Failure::new(Exit::Usage, "neither a serial nor --edge is given"));
    };
    let list = Call::CertList { namespace: Some(namespace.clone()) };
    let mut certs = session.query(list, kind!(Certs)).await?;
    certs.retain(|cert| cert.state == CertState::Valid && is_of(cert, edge));
    if certs.is_empty() {
        let message = format!("edge {namespace}/{edge} has no valid certificate");
        return Err(
            Failure::new(Exit::NotFound, message).hint(format!("cfctl cert list -n {namespace}"))
        );
    }
    Ok(certs)
}

//! Commands that write files: contexts for admins, certificates for gateways.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use cframe_pki::{
    bundle::TrustBundle,
    identity::SpiffeId,
    issue::{IssuingCa, RootCa, VerifiedCsr},
    key::PrivateKey,
};
use cframe_protocol::v1::{AdminEnrolled, Enrolled};

use super::*;
use crate::context::Contexts;

const LEAF_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

struct Ca {
    root: RootCa,
    issuing: IssuingCa,
    now: u64,
}

impl Ca {
    fn new() -> Self {
        let now = cframe_pki::unix_now();
        let root = RootCa::generate(&label("corp"), now).unwrap();
        let issuing = root.issuing_ca(now).unwrap();
        Self { root, issuing, now }
    }

    fn chain(&self, id: SpiffeId, csr: &[u8]) -> Vec<Vec<u8>> {
        let csr = VerifiedCsr::from_der(csr).unwrap();
        let leaf = self.issuing.issue(&csr, &id, LEAF_LIFETIME, self.now).unwrap();
        vec![leaf.der.to_vec(), self.issuing.certificate().to_vec()]
    }

    fn trust(&self) -> TrustBundle {
        let roots = vec![self.root.certificate().clone()];
        TrustBundle { roots, revoked_issuers: [label(&"ab".repeat(32))].into() }
    }

    fn answer(&self, call: &Call) -> Result<Vec<Reply>, Failure> {
        let controllers = vec![label("203.0.113.1:58422")];
        let (mesh, trust) = (label("corp"), self.trust());
        Ok(vec![match call {
            Call::AdminAdd { name, csr, read_only } => Reply::AdminEnrolled(AdminEnrolled {
                chain: self.chain(SpiffeId::admin(label("corp"), name.clone()), csr),
                name: name.clone(),
                read_only: *read_only,
                mesh,
                trust,
                controllers,
            }),
            Call::CertEnroll { namespace, edge, csr } => Reply::Enrolled(Enrolled {
                chain: self
                    .chain(SpiffeId::edge(label("corp"), namespace.clone(), edge.clone()), csr),
                namespace: namespace.clone(),
                edge: edge.clone(),
                mesh,
                trust,
                controllers,
                settings: Settings::default(),
                listen_port: 58423,
                site_prefixes: vec![label("172.30.0.0/16")],
            }),
            other => return sample(other),
        }])
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_admins_context_is_complete_private_and_new() {
    let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
    let file = directory.path().join("alice.toml");
    let line = format!("cfctl admin add alice --read-only --out {}", file.display());
    let outcome = run_with(&line, None, &|call| ca.answer(call));
    assert_eq!(outcome.result, Ok(Exit::Done));
    assert_eq!(mode(&file), 0o600);
    assert!(!outcome.out.contains("PRIVATE KEY") && !outcome.err.contains("PRIVATE KEY"));

    let contexts = Contexts::load(&file).unwrap();
    let (name, context) = contexts.select(None).unwrap();
    assert_eq!(name, "corp");
    let identity = context.credentials().unwrap().identity().unwrap();
    assert_eq!(identity.id.to_string(), "spiffe://corp/admin/alice");
    assert_eq!(context.trust().unwrap().bundle(), ca.trust());

    // The second time no call is made: the file exists.
    let outcome = run_with(&line, None, &|call| ca.answer(call));
    assert_eq!(outcome.result.unwrap_err().exit, Exit::Conflict);
    assert!(outcome.calls.is_empty());
}

#[test]
fn a_certificate_for_a_gateway_comes_without_a_key() {
    let (ca, directory) = (Ca::new(), tempfile::tempdir().unwrap());
    let (csr, out) = (directory.path().join("hk.csr"), directory.path().join("out"));
    let key = PrivateKey::generate().unwrap();
    fs::write(&csr, key.csr_pem().unwrap()).unwrap();
    let line = format!(
        "cfctl cert enroll --csr {} -n prod --edge aws-hk --out-dir {} -o json",
        csr.display(),
        out.display()
    );
    let outcome = run_with(&line, None, &|call| ca.answer(call));
    assert_eq!(outcome.result, Ok(Exit::Done));
    let chain =
        crate::pem::certificates(&fs::read_to_string(out.join("cert.pem")).unwrap()).unwrap();
    let id = SpiffeId::from_certificate(&chain[0]).unwrap();
    assert_eq!(id.to_string(), "spiffe://corp/ns/prod/edge/aws-hk");
    let text = fs::read(out.join("enrolled.json")).unwrap();
    // What `cframe-edge import` reads: the file, or what was printed.
    for answer in [text.as_slice(), outcome.out.as_bytes()] {
        let enrolled: Enrolled = serde_json::from_slice(answer).unwrap();
        assert_eq!(enrolled.chain[0], chain[0].as_ref());
        assert_eq!((enrolled.trust, enrolled.listen_port), (ca.trust(), 58423));
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
}

#[test]
fn a_malformed_request_is_refused_before_any_call() {
    let directory = tempfile::tempdir().unwrap();
    let csr = directory.path().join("not.csr");
    for content in ["", "-----BEGIN PRIVATE KEY-----\n", "0 not DER"] {
        fs::write(&csr, content).unwrap();
        let line = format!(
            "cfctl cert enroll --csr {} -n prod --edge a --out-dir {}",
            csr.display(),
            directory.path().display()
        );
        let outcome = run(&line);
        let failure = outcome.result.unwrap_err();
        assert!(failure.message.contains("not a signing request"), "{failure}");
        assert!(outcome.calls.is_empty());
    }
}

//! The data directory: identity, the answer of the enrolment, and the endpoint's keys.

mod cut;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cframe_mesh::EndpointKeys;
use cframe_pki::{
    CertificateDer,
    bundle::TrustBundle,
    files,
    identity::{PeerIdentity, Role, SpiffeId},
    key::PrivateKey,
    tls::Credentials,
};
use cframe_protocol::v1::{Endpoint, Enrolled, Settings};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

pub use cut::Cut;

const ENROLLED: &str = "enrolled.json";
const KEYS: &str = "endpoint.key";
const PENDING_KEY: &str = "pending.key.pem";
const LOCK: &str = "lock";

/// What came with the certificate. Trust, controllers and settings count only while there is no
/// snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    pub trust: TrustBundle,
    pub controllers: Vec<Endpoint>,
    /// The UDP port of links; 0 for the default.
    pub listen_port: u16,
    pub settings: Settings,
}

/// A data directory, locked by this process.
#[derive(Debug)]
pub struct State {
    pub dir: PathBuf,
    _lock: File,
}

impl State {
    /// Creates the directory if it is missing, and locks it until this is dropped.
    pub fn open(dir: &Path) -> Result<Self> {
        files::ensure_private_dir(dir)?;
        let path = dir.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("{} is in use by another cframe-edge", dir.display());
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// The endpoint's keys, generated at the first start.
    pub fn endpoint_keys(&self) -> Result<EndpointKeys> {
        let path = self.dir.join(KEYS);
        if !path.exists() {
            let bytes = random::<KEYS_LEN>()?;
            files::write_secret(&path, STANDARD.encode(bytes).as_bytes())?;
        }
        let text = files::read_secret(&path)?;
        let bytes = STANDARD.decode(text.trim_ascii()).ok();
        let keys = bytes.as_deref().and_then(split_keys);
        keys.with_context(|| {
            format!("{} is damaged: remove it, and a new one is generated", path.display())
        })
    }
}

/// The identity in a directory, and its enrolment.
pub fn load(dir: &Path) -> Result<(Credentials, PeerIdentity, Enrolment)> {
    // What cannot be seen is an error of its own below, and no reason to join again.
    if dir.join(Credentials::CHAIN_FILE).try_exists().is_ok_and(|exists| !exists) {
        bail!("no identity in {}: join first, with cframe-edge join TOKEN", dir.display());
    }
    let credentials = Credentials::load(dir)?;
    let identity = credentials.identity()?;
    if !matches!(identity.id.role, Role::Edge { .. }) {
        bail!("the identity in {} is {}, which is not an edge's", dir.display(), identity.id);
    }
    let path = dir.join(ENROLLED);
    let text = files::read_public(&path)?;
    let enrolment = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged: join again", path.display()))?;
    Ok((credentials, identity, enrolment))
}

/// The identity in a directory, if there is one.
pub fn existing(dir: &Path) -> Option<SpiffeId> {
    Some(Credentials::load(dir).ok()?.identity().ok()?.id)
}

/// Checks and saves an enrolment, the certificate last. Returns the identity of the certificate.
pub fn save_identity(dir: &Path, key: PrivateKey, enrolled: &Enrolled) -> Result<PeerIdentity> {
    let credentials = credentials(key, enrolled)?;
    let identity = credentials.identity()?;
    files::ensure_private_dir(dir)?;
    if existing(dir).is_some_and(|before| before != identity.id) {
        // The snapshot is the other edge's.
        let _ = std::fs::remove_file(dir.join(crate::snapshot::FILE));
    }
    save_enrolment(
        dir,
        &Enrolment {
            trust: enrolled.trust.clone(),
            controllers: enrolled.controllers.clone(),
            listen_port: enrolled.listen_port,
            settings: enrolled.settings,
        },
    )?;
    credentials.save(dir)?;
    Cut::forget(dir);
    let _ = std::fs::remove_file(dir.join(PENDING_KEY));
    Ok(identity)
}

/// Reads the answer of `cfctl cert enroll`: the file, or the directory that contains it.
pub fn read_answer(path: &Path) -> Result<Enrolled> {
    let path = if path.is_dir() { path.join(ENROLLED) } else { path.to_owned() };
    parse_answer(&files::read_public(&path)?).with_context(|| path.display().to_string())
}

pub fn parse_answer(text: &[u8]) -> Result<Enrolled> {
    serde_json::from_slice(text).context("not an answer of cfctl cert enroll (enrolled.json)")
}

/// The credentials of an enrolment.
pub fn credentials(key: PrivateKey, enrolled: &Enrolled) -> Result<Credentials> {
    let chain: Vec<CertificateDer<'static>> =
        enrolled.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let credentials = Credentials { chain, key };
    let found = credentials.identity()?.id;
    let Enrolled { mesh, namespace, edge, .. } = enrolled;
    let named = SpiffeId::edge(mesh.clone(), namespace.clone(), edge.clone());
    if found != named {
        bail!("the controller names {named} and certifies {found}: nothing was saved");
    }
    Ok(credentials)
}

pub fn save_enrolment(dir: &Path, enrolment: &Enrolment) -> Result<()> {
    let text = serde_json::to_vec_pretty(enrolment)?;
    Ok(files::write_public(&dir.join(ENROLLED), &text)?)
}

/// The key that waits for its certificate, generated if there is none.
pub fn pending_key(dir: &Path) -> Result<PrivateKey> {
    files::ensure_private_dir(dir)?;
    let path = dir.join(PENDING_KEY);
    if path.exists() {
        let text = files::read_secret(&path)?;
        return PrivateKey::from_pem(&*text).with_context(|| path.display().to_string());
    }
    let key = PrivateKey::generate()?;
    files::write_secret(&path, key.to_pem().as_bytes())?;
    Ok(key)
}

/// Bytes of the system's random source.
pub fn random<const LEN: usize>() -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => bail!("the system's random source failed"),
    }
}

const KEYS_LEN: usize = 64 + 8 + 32;

fn split_keys(bytes: &[u8]) -> Option<EndpointKeys> {
    let (reset, rest) = bytes.split_first_chunk::<64>()?;
    let (connection_id, rest) = rest.split_first_chunk::<8>()?;
    let retry: [u8; 32] = rest.try_into().ok()?;
    Some(EndpointKeys { reset: *reset, connection_id: u64::from_le_bytes(*connection_id), retry })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use cframe_pki::{
        identity::{Label, MeshName},
        issue::{LEAF_LIFETIME, RootCa, VerifiedCsr},
    };

    use super::*;

    #[test]
    fn endpoint_keys_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let first = State::open(&path).unwrap().endpoint_keys().unwrap();
        let second = State::open(&path).unwrap().endpoint_keys().unwrap();
        assert_eq!(first.reset, second.reset);
        assert_eq!((first.connection_id, first.retry), (second.connection_id, second.retry));
    }

    #[test]
    fn a_directory_has_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let held = State::open(&path).unwrap();
        assert!(State::open(&path).unwrap_err().to_string().contains("in use"));
        drop(held);
        State::open(&path).unwrap();
    }

    #[test]
    fn a_pending_key_stays_the_same_until_its_certificate_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let first = pending_key(&path).unwrap();
        assert_eq!(first.spki_sha256(), pending_key(&path).unwrap().spki_sha256());
    }

    /// What a controller answers to a CSR, and `cfctl cert enroll` writes to a file.
    fn enrolled(key: &PrivateKey, name: &str) -> Enrolled {
        let mesh: MeshName = "mesh.example".parse().unwrap();
        let now = cframe_pki::unix_now();
        let root = RootCa::generate(&mesh, now).unwrap();
        let ca = root.issuing_ca(now).unwrap();
        let (namespace, edge): (Label, Label) = ("prod".parse().unwrap(), name.parse().unwrap());
        let id = SpiffeId::edge(mesh.clone(), namespace.clone(), edge.clone());
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let leaf = ca.issue(&csr, &id, LEAF_LIFETIME, now).unwrap();
        Enrolled {
            mesh,
            namespace,
            edge,
            chain: vec![leaf.der.to_vec(), ca.certificate().to_vec()],
            trust: TrustBundle {
                roots: vec![root.certificate().clone()],
                ..TrustBundle::default()
            },
            controllers: vec!["ctl.example.com:58422".parse().unwrap()],
            settings: Settings::default(),
            listen_port: 58423,
            site_prefixes: vec!["10.1.0.0/16".parse().unwrap()],
        }
    }

    /// Joins as an edge of this name.
    pub(crate) fn enrolled_for(dir: &Path, name: &str) -> PeerIdentity {
        let key = PrivateKey::generate().unwrap();
        save_identity(dir, key.clone(), &enrolled(&key, name)).unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let key = PrivateKey::generate().unwrap();
        save_identity(&path, key.clone(), &enrolled(&key, "idc")).unwrap();
        let (_, identity, enrolment) = load(&path).unwrap();
        assert_eq!(identity.id.to_string(), "spiffe://mesh.example/ns/prod/edge/idc");
        assert_eq!(enrolment.listen_port, 58423);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(Credentials::KEY_FILE)), 0o600);
    }

    #[test]
    fn another_identity_does_not_start_from_the_previous_ones_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let key = PrivateKey::generate().unwrap();
        save_identity(&path, key.clone(), &enrolled(&key, "idc")).unwrap();
        let snapshot = path.join(crate::snapshot::FILE);
        std::fs::write(&snapshot, "state").unwrap();
        save_identity(&path, key.clone(), &enrolled(&key, "idc")).unwrap();
        assert!(snapshot.exists(), "the same identity keeps it");
        save_identity(&path, key.clone(), &enrolled(&key, "aws-hk")).unwrap();
        assert!(!snapshot.exists());
    }

    #[test]
    fn a_certificate_for_another_key_or_name_is_not_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let key = PrivateKey::generate().unwrap();
        let other = PrivateKey::generate().unwrap();
        assert!(save_identity(&path, key.clone(), &enrolled(&other, "idc")).is_err());
        let mut lying = enrolled(&key, "idc");
        lying.edge = "aws-hk".parse().unwrap();
        assert!(
            save_identity(&path, key, &lying)
                .unwrap_err()
                .to_string()
                .contains("nothing was saved")
        );
        assert!(!path.join(Credentials::CHAIN_FILE).exists());
    }

    #[test]
    fn the_answer_of_cert_enroll_is_read_from_its_file_or_directory() {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        let enrolled = enrolled(&key, "idc");
        let file = dir.path().join("enrolled.json");
        std::fs::write(&file, serde_json::to_vec(&enrolled).unwrap()).unwrap();
        assert_eq!(read_answer(&file).unwrap(), enrolled);
        assert_eq!(read_answer(dir.path()).unwrap(), enrolled);
        assert!(parse_answer(b"{}").is_err());
    }

    #[test]
    fn a_directory_without_an_identity_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cframe-edge join"), "{error}");
    }
}

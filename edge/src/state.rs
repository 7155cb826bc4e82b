//! What an edge keeps in its data directory: identity, what enrolment said, and the endpoint's keys.

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
    identity::{Label, MeshName, PeerIdentity, Role, SpiffeId},
    key::PrivateKey,
    tls::Credentials,
};
use cframe_protocol::v1::{Endpoint, Enrolled, Settings};
use rustix::fs::{FlockOperation, flock};
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

const ENROLLED: &str = "enrolled.json";
const KEYS: &str = "endpoint.key";
const PENDING_KEY: &str = "pending.key.pem";
const LOCK: &str = "lock";

/// What enrolment said, beside the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Whose certificates count; a snapshot knows better.
    pub trust: TrustBundle,
    /// Where controllers are; a snapshot knows better.
    pub controllers: Vec<Endpoint>,
    /// The UDP port of links.
    pub listen_port: u16,
    /// The namespace's settings; a snapshot knows better.
    pub settings: Settings,
}

/// A data directory, held by one process at a time.
#[derive(Debug)]
pub struct State {
    /// The directory.
    pub dir: PathBuf,
    _lock: File,
}

impl State {
    /// Makes the directory if need be, and locks it until this is dropped.
    ///
    /// # Errors
    /// When it is open to others, or another process has it.
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

    /// The endpoint's keys, made at the first start.
    ///
    /// # Errors
    /// When the file is open to others or unreadable, or the random source fails.
    pub fn endpoint_keys(&self) -> Result<EndpointKeys> {
        let path = self.dir.join(KEYS);
        if !path.exists() {
            let mut bytes = [0; KEYS_LEN];
            random(&mut bytes)?;
            files::write_secret(&path, STANDARD.encode(bytes).as_bytes())?;
        }
        let text = files::read_secret(&path)?;
        let bytes = STANDARD.decode(text.trim_ascii()).ok();
        let keys = bytes.as_deref().and_then(split_keys);
        keys.with_context(|| format!("{} is damaged: remove it, and a new one is made", path.display()))
    }
}

/// The identity in a directory, and what enrolment said.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn load(dir: &Path) -> Result<(Credentials, PeerIdentity, Enrolment)> {
    if !dir.join(Credentials::CHAIN_FILE).exists() {
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

/// Keeps what enrolment gave: checked, the certificate last. Returns whose it is.
///
/// # Errors
/// When the certificate is another's or for another key, or a file cannot be written.
pub fn adopt(dir: &Path, key: PrivateKey, enrolled: &Enrolled) -> Result<PeerIdentity> {
    let credentials = credentials(key, enrolled)?;
    let identity = credentials.identity()?;
    files::ensure_private_dir(dir)?;
    if existing(dir).is_some_and(|before| before != identity.id) {
        // Another's state.
        let _ = std::fs::remove_file(dir.join(crate::snapshot::FILE));
    }
    save_enrolment(dir, &Enrolment {
        trust: enrolled.trust.clone(),
        controllers: enrolled.controllers.clone(),
        listen_port: enrolled.listen_port,
        settings: enrolled.settings,
    })?;
    credentials.save(dir)?;
    let _ = std::fs::remove_file(dir.join(PENDING_KEY));
    Ok(identity)
}

/// Reads what `cfctl cert enroll` has written into a directory.
///
/// # Errors
/// When a file is missing or not one of its.
pub fn read_answer(dir: &Path) -> Result<Enrolled> {
    /// The part of `enrolled.json` that [`Enrolment`] leaves out.
    #[derive(Deserialize)]
    struct Named {
        mesh: MeshName,
        namespace: Label,
        edge: Label,
        site_prefixes: Vec<ipnet::IpNet>,
    }
    let path = dir.join(ENROLLED);
    let text = files::read_public(&path)?;
    let named: Named = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let rest: Enrolment = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let path = dir.join(Credentials::CHAIN_FILE);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&files::read_public(&path)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain: Vec<CertificateDer<'static>> =
        chain.with_context(|| format!("{} has no certificates", path.display()))?;
    Ok(Enrolled {
        mesh: named.mesh,
        namespace: named.namespace,
        edge: named.edge,
        chain: chain.iter().map(|der| der.to_vec()).collect(),
        trust: rest.trust,
        controllers: rest.controllers,
        settings: rest.settings,
        listen_port: rest.listen_port,
        site_prefixes: named.site_prefixes,
    })
}

/// The credentials of an enrolment, which must be for this key and for whom it says.
///
/// # Errors
/// When they aren't.
pub fn credentials(key: PrivateKey, enrolled: &Enrolled) -> Result<Credentials> {
    let chain: Vec<CertificateDer<'static>> =
        enrolled.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let credentials = Credentials { chain, key };
    let found = credentials.identity()?.id;
    let Enrolled { mesh, namespace, edge, .. } = enrolled;
    let said = SpiffeId::edge(mesh.clone(), namespace.clone(), edge.clone());
    if found != said {
        bail!("the controller says {said} and certifies {found}: nothing was kept");
    }
    Ok(credentials)
}

/// Keeps what enrolment or a later state said.
///
/// # Errors
/// When the file cannot be written.
pub fn save_enrolment(dir: &Path, enrolment: &Enrolment) -> Result<()> {
    let text = serde_json::to_vec_pretty(enrolment)?;
    Ok(files::write_public(&dir.join(ENROLLED), &text)?)
}

/// The key that waits for its certificate, made if there is none yet.
///
/// # Errors
/// When it cannot be made, read or written.
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

/// Fills `bytes` from the system's random source.
///
/// # Errors
/// When that fails.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    match aws_lc_rs::rand::fill(bytes) {
        Ok(()) => Ok(()),
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
mod tests {
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
    fn a_pending_key_stays_the_same_until_it_is_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let first = pending_key(&path).unwrap();
        assert_eq!(first.spki_sha256(), pending_key(&path).unwrap().spki_sha256());
    }

    #[test]
    fn a_directory_without_an_identity_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cframe-edge join"), "{error}");
    }
}

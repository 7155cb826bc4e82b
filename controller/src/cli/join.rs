//! `init --join`: adds a controller to an existing mesh.
//!
//! Its keys are made on this host and stay here. The root signs its issuing CA: at once if the root's key is on this host,
//! otherwise by a request that is carried to the root's key. Every step uses what an earlier attempt has done.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow};
use cframe_pki::{
    CertificateDer,
    bundle::TrustBundle,
    files,
    identity::{Label, MeshName},
    issue::{IssuingCa, RootCa, VerifiedCsr, read_certificate, write_certificates},
    key::PrivateKey,
    tls::Credentials,
    unix_now,
    verifier::{PeerSide, PeerVerifier, Policy, Trust},
};
use cframe_protocol::v1::Endpoint;
use cframe_store::{CommitError, Op, Store};

use crate::{
    cli::{
        DataDir, Failure,
        ca::load_root,
        open_store,
        records::{local_record, new_leaf},
    },
    config::{Config, StoreConfig},
    decide::{draft::Draft, registration},
    model::{
        State,
        record::{self, CertRecord, ControllerRecord, Key, ROOT},
    },
};

/// The request for the issuing CA's certificate, in the data directory.
const REQUEST: &str = "issuing.csr";
/// A write is decided again when another writer was faster.
const ATTEMPTS: usize = 16;

/// The controller to be added.
#[derive(Debug, Clone)]
pub struct Joining {
    pub name: Label,
    /// Control ports.
    pub addresses: Vec<Endpoint>,
}

/// How the root signs the issuing CA.
#[derive(Debug)]
pub enum Signer {
    /// Now, with this key.
    Root(Box<RootCa>),
    /// It was signed elsewhere: this is the certificate.
    Signed(CertificateDer<'static>),
    /// Later and elsewhere.
    Later,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Joined {
    /// It is a controller of this mesh now.
    Member(MeshName),
    /// This request must be signed by the root.
    Requested(PathBuf),
}

/// The flags of `init --join`.
pub(super) struct Flags {
    pub(super) joining: Joining,
    pub(super) root: Option<PathBuf>,
    pub(super) issuing_certificate: Option<PathBuf>,
}

pub(super) async fn command(config: &Config, flags: Flags) -> Result<(), Failure> {
    let Flags { joining, root, issuing_certificate } = flags;
    let signer = match (&root, &issuing_certificate) {
        (Some(path), _) => Signer::Root(Box::new(load_root(path)?)),
        (None, Some(path)) => {
            Signer::Signed(read_certificate(path).context("--issuing-certificate")?)
        }
        (None, None) => Signer::Later,
    };
    let directory = DataDir::new(&config.data_dir);
    let store = shared_store(config).await?;
    let joined = join(&*store, &directory, &joining, signer).await;
    store.close().await;
    report(&directory, &joining, &joined?);
    Ok(())
}

/// The store that the mesh's controllers share.
async fn shared_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    match config.store {
        StoreConfig::Embedded => Err(Failure::conflict(anyhow!(
            "the embedded store in {} is for one controller; several controllers share a store of kind etcd (--store \
             etcd --etcd-endpoint URL)",
            config.data_dir.display()
        ))),
        StoreConfig::Etcd(_) => Ok(open_store(config).await?),
    }
}

/// Adds the controller of a data directory to the mesh in the store. It can be repeated at any time.
pub async fn join(
    store: &dyn Store,
    directory: &DataDir,
    joining: &Joining,
    signer: Signer,
) -> Result<Joined, Failure> {
    let state = State::load(&store.list(ROOT).await?)?;
    if state.controllers.is_empty() {
        return Err(Failure::conflict(anyhow!(
            "mesh {} has no registered controller; first start its controller with this version",
            state.mesh.record.name
        )));
    }
    directory.ensure()?;
    let key = issuing_key(directory)?;
    let Some(certificate) = issuing_certificate(&state, directory, &key, signer)? else {
        let path = directory.path().join(REQUEST);
        files::write_public(&path, key.csr_pem()?.as_bytes())?;
        return Ok(Joined::Requested(path));
    };
    let ca = IssuingCa::new(certificate, key).with_context(|| {
        format!(
            "the certificate is not for the key in {}; sign the request of this directory",
            directory.ca().display()
        )
    })?;
    check_name(&state, joining, &ca)?;
    let now = unix_now();
    let (own, root) = own_certificate(&state, directory, joining, &ca, now)?;
    write_certificates(
        &directory.ca().join(IssuingCa::CERTIFICATE_FILE),
        std::slice::from_ref(ca.certificate()),
    )?;
    write_certificates(
        &directory.ca().join(RootCa::CERTIFICATE_FILE),
        std::slice::from_ref(&root),
    )?;
    own.save(&directory.identity())?;
    register(store, state, joining, &ca, &own, now).await?;
    match std::fs::remove_file(directory.path().join(REQUEST)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    Ok(Joined::Member(ca.mesh().clone()))
}

/// The key of the issuing CA, from an earlier attempt or new.
fn issuing_key(directory: &DataDir) -> Result<PrivateKey> {
    let path = directory.ca().join(IssuingCa::KEY_FILE);
    if path.exists() {
        let pem = files::read_secret(&path)?;
        return PrivateKey::from_pem(&*pem).with_context(|| path.display().to_string());
    }
    files::ensure_private_dir(&directory.ca())?;
    let key = PrivateKey::generate()?;
    files::write_secret(&path, key.to_pem().as_bytes())?;
    Ok(key)
}

/// The certificate of the issuing CA, from an earlier attempt or by its signer; `None` if it is yet to be signed.
fn issuing_certificate(
    state: &State,
    directory: &DataDir,
    key: &PrivateKey,
    signer: Signer,
) -> Result<Option<CertificateDer<'static>>, Failure> {
    let path = directory.ca().join(IssuingCa::CERTIFICATE_FILE);
    match signer {
        Signer::Signed(certificate) => Ok(Some(certificate)),
        Signer::Root(_) | Signer::Later if path.exists() => Ok(Some(read_certificate(&path)?)),
        Signer::Root(root) => {
            if !state.mesh.record.trust.roots.contains(root.certificate()) {
                return Err(Failure::conflict(anyhow!(
                    "the root CA {} is none of mesh {}; give the directory of one with --root",
                    root.spki_sha256(),
                    state.mesh.record.name
                )));
            }
            let csr = VerifiedCsr::from_der(&key.csr()?)?;
            Ok(Some(root.sign_issuing(&csr, unix_now())?))
        }
        Signer::Later => Ok(None),
    }
}

/// The name must be free, or this controller's own from an earlier attempt.
fn check_name(state: &State, joining: &Joining, ca: &IssuingCa) -> Result<(), Failure> {
    let Some(known) = state.controllers.get(&joining.name) else { return Ok(()) };
    if registration::issuer(&known.record)?.0 == ca.spki_sha256() {
        return Ok(());
    }
    Err(Failure::conflict(anyhow!(
        "controller {0} exists already; give another name with --name, or remove that one first (`cfctl \
         controller del {0}`)",
        joining.name
    )))
}

/// The controller's own certificate, from an earlier attempt or new, and the root above it. The chain is verified as others
/// will verify it.
fn own_certificate(
    state: &State,
    directory: &DataDir,
    joining: &Joining,
    ca: &IssuingCa,
    now: u64,
) -> Result<(Credentials, CertificateDer<'static>), Failure> {
    let id = state.controller_id(&joining.name);
    let earlier = Credentials::load(&directory.identity()).ok().filter(|earlier| {
        earlier.chain.get(1) == Some(ca.certificate())
            && earlier.identity().is_ok_and(|identity| identity.id == id)
    });
    if let Some(earlier) = earlier
        && let Ok(root) = root_above(state, &earlier, now)
    {
        return Ok((earlier, root));
    }
    if *ca.mesh() != state.mesh.record.name {
        return Err(Failure::conflict(anyhow!(
            "the issuing CA is of mesh {}, the store of mesh {}",
            ca.mesh(),
            state.mesh.record.name
        )));
    }
    let (own, _) = new_leaf(ca, id, now)?;
    let root = root_above(state, &own, now)?;
    Ok((own, root))
}

/// The mesh's root above a chain.
fn root_above(
    state: &State,
    own: &Credentials,
    now: u64,
) -> Result<CertificateDer<'static>, Failure> {
    let TrustBundle { roots, revoked_issuers } = &state.mesh.record.trust;
    let mut refusal = None;
    for root in roots {
        let one =
            TrustBundle { roots: vec![root.clone()], revoked_issuers: revoked_issuers.clone() };
        let trust = Trust::new(state.mesh.record.name.clone(), one, state.deny_list())?;
        let verifier = PeerVerifier::new(trust, Policy::Controller);
        match verifier.judge(&own.chain, PeerSide::Server, now) {
            Ok(_) => return Ok(root.clone()),
            Err(why) => refusal = Some(why),
        }
    }
    let why = refusal.map(|why| why.to_string()).unwrap_or_default();
    Err(Failure::conflict(anyhow!(
        "mesh {} would not accept a controller with this issuing CA ({why}); have it signed by the mesh's root, or \
         start again with an empty --data-dir",
        state.mesh.record.name
    )))
}

/// Writes the registration and the certificate into the store.
async fn register(
    store: &dyn Store,
    mut state: State,
    joining: &Joining,
    ca: &IssuingCa,
    own: &Credentials,
    now: u64,
) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        check_name(&state, joining, ca)?;
        let draft = decide(&state, joining, ca, own, now)?;
        if draft.is_empty() {
            return Ok(());
        }
        let mut txn = draft.txn;
        txn.ops.push(local_record(&joining.name, "init --join", joining.name.to_string()));
        match store.commit(txn).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict(_)) => state = State::load(&store.list(ROOT).await?)?,
            Err(error) => {
                return Err(anyhow!(error)
                    .context("the controller has not joined; repeat the command")
                    .into());
            }
        }
    }
    Err(anyhow!("other writers were faster {ATTEMPTS} times in a row; repeat the command").into())
}

fn decide(
    state: &State,
    joining: &Joining,
    ca: &IssuingCa,
    own: &Credentials,
    now: u64,
) -> Result<Draft, Failure> {
    let mut draft = Draft::default();
    let identity = own.identity()?;
    if !state.certs.contains_key(&identity.serial) {
        let key = Key::Cert(identity.serial);
        draft.compare(key.clone(), 0);
        let bundle = Some(state.mesh.record.revision);
        let record = CertRecord { bundle, ..CertRecord::from(&identity) };
        draft.txn.ops.push(Op::Put { key: key.to_string(), value: record::encode(&record) });
    }
    let old = state.controllers.get(&joining.name).map(|old| &old.record);
    let record = ControllerRecord {
        addresses: joining.addresses.clone(),
        issuer: ca.certificate().clone(),
        added: old.map_or(now, |old| old.added),
    };
    if old != Some(&record) {
        registration::register(&mut draft, state, &joining.name, &record)?;
    } else if let Some(old) = state.controllers.get(&joining.name).filter(|_| !draft.is_empty()) {
        draft.rewrite(Key::Controller(joining.name.clone()), old);
    }
    Ok(draft)
}

fn report(directory: &DataDir, joining: &Joining, joined: &Joined) {
    let Joining { name, addresses } = joining;
    match joined {
        Joined::Member(mesh) => {
            let places: Vec<&str> = addresses.iter().map(Endpoint::as_str).collect();
            eprintln!("controller {name} of mesh {mesh} at {}", places.join(", "));
            eprintln!("next: cframe-controller run --data-dir {}", directory.path().display());
        }
        Joined::Requested(path) => {
            let shown = path.display();
            if let Some(key) = fingerprint(path) {
                eprintln!("the issuing CA's key is {key}");
            }
            eprintln!("its signing request is in {shown}; on the host with the root's key, run:");
            eprintln!("  cframe-controller ca sign {REQUEST} --root DIR --out issuing.pem");
            eprintln!("then run this command again with --issuing-certificate issuing.pem");
        }
    }
}

fn fingerprint(request: &Path) -> Option<String> {
    let text = files::read_public(request).ok()?;
    Some(VerifiedCsr::from_pem(&text).ok()?.spki_sha256().to_string())
}

//! `init`: a new mesh.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail};
use cframe_pki::{
    bundle::TrustBundle,
    identity::{Label, MeshName, SpiffeId},
    issue::{IssuingCa, LEAF_LIFETIME, RootCa, VerifiedCsr},
    key::PrivateKey,
    tls::Credentials,
    unix_now,
};
use cframe_protocol::{CONTROL_PORT, v1::Endpoint};
use clap::Args;

use super::{AdminContext, Contexts, DataDir, Failure};
use crate::{
    config::Config,
    record::{self, Key},
    store::{Op, Store, Txn, redb::Redb},
};

/// Flags of `init`.
#[derive(Debug, Args)]
pub struct InitFlags {
    /// The mesh's name, a DNS name such as corp.example
    #[arg(long, value_name = "NAME", env = "CFRAME_MESH")]
    mesh: MeshName,
    /// Where edges and admins reach this controller; repeat it for several
    #[arg(long, value_name = "HOST[:PORT]", env = "CFRAME_ADDRESS", required = true, value_delimiter = ',', value_parser = address)]
    address: Vec<Endpoint>,
    /// The controller's name
    #[arg(long, value_name = "NAME", env = "CFRAME_NAME", default_value = "controller")]
    name: Label,
    /// The first admin's name
    #[arg(long, value_name = "NAME", env = "CFRAME_ADMIN", default_value = "admin")]
    admin: Label,
    /// The file for the first admin's context [default: ~/.config/cframe/config.toml]
    #[arg(long, value_name = "FILE", env = "CFRAME_ADMIN_CONTEXT")]
    admin_context: Option<PathBuf>,
}

/// What a new mesh begins with.
#[derive(Debug, Clone)]
pub struct Initial {
    /// Its name.
    pub mesh: MeshName,
    /// The controller's name.
    pub name: Label,
    /// The first admin's name.
    pub admin: Label,
    /// Where the controller is reached.
    pub addresses: Vec<Endpoint>,
}

pub(super) async fn command(config: &Config, flags: InitFlags) -> Result<(), Failure> {
    let InitFlags { mesh, address, name, admin, admin_context } = flags;
    let path = match admin_context {
        Some(path) => path,
        None => default_context()?,
    };
    let mut contexts = Contexts::load(&path).context("the admin's context")?;
    let context_name = mesh.to_string();
    if contexts.contexts.contains_key(&context_name) {
        return Err(Failure::conflict(anyhow!(
            "{} has a context {context_name} already; give another file with --admin-context",
            path.display()
        )));
    }
    let directory = DataDir::new(&config.data_dir);
    if directory.has_store() || directory.has_keys() {
        return Err(Failure::conflict(anyhow!(
            "{} has a mesh already; give another directory with --data-dir",
            directory.path().display()
        )));
    }
    let initial = Initial { mesh, name, admin, addresses: address };
    let context = initialise(&directory, &initial).await?;
    contexts.put(context_name, context);
    contexts.save(&path).context("the admin's context")?;
    report(&directory, &initial, &path);
    Ok(())
}

/// Makes a mesh in a data directory: CAs, the controller's certificate, the store. Answers with the first
/// admin's context, which is kept nowhere else.
///
/// # Errors
/// If there is something already, or a file cannot be written. What was begun is in a directory `.new`, and
/// is cleared away by the next attempt.
pub async fn initialise(directory: &DataDir, initial: &Initial) -> Result<AdminContext> {
    directory.ensure()?;
    let building = DataDir::new(directory.path().join(".new"));
    match std::fs::remove_dir_all(building.path()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("cannot clear {}", building.path().display()));
        }
        Ok(()) | Err(_) => {}
    }
    building.ensure()?;
    let now = unix_now();
    let root = RootCa::generate(&initial.mesh, now)?;
    let issuing = root.issuing_ca(now)?;
    root.save(&building.ca())?;
    issuing.save(&building.ca())?;

    let controller = SpiffeId::controller(initial.mesh.clone(), initial.name.clone());
    let (own, own_record) = leaf(&issuing, controller, now)?;
    own.save(&building.identity())?;
    let admin = SpiffeId::admin(initial.mesh.clone(), initial.admin.clone());
    let (admin, admin_record) = leaf(&issuing, admin, now)?;

    let trust = TrustBundle { roots: vec![root.certificate().clone()], ..TrustBundle::default() };
    let controllers: Vec<String> = initial.addresses.iter().map(ToString::to_string).collect();
    let context = AdminContext::new(initial.mesh.to_string(), controllers, &admin, &trust);
    let mesh = record::Mesh {
        name: initial.mesh.clone(),
        epoch: now_ms(),
        revision: 1,
        trust,
        controllers: initial.addresses.iter().cloned().collect(),
        roots_since: BTreeMap::new(),
    };
    let first_admin = record::Admin { read_only: false };
    let issuer = record::Issuer {
        controller: initial.name.clone(),
        root: root.spki_sha256(),
        not_before: issuing.not_before(),
        not_after: issuing.not_after(),
        added: now,
        signs: true,
    };
    let ops = vec![
        put(&Key::Mesh, &mesh),
        put(&Key::Admin(initial.admin.clone()), &first_admin),
        put(&Key::Issuer(issuing.spki_sha256()), &issuer),
        own_record,
        admin_record,
    ];
    let path = building.store();
    let store = tokio::task::spawn_blocking(move || Redb::open(&path)).await??;
    store.commit(Txn { compares: Vec::new(), ops }).await?;
    store.close().await;
    // The store last: with it there is a mesh.
    for (from, to) in [
        (building.ca(), directory.ca()),
        (building.identity(), directory.identity()),
        (building.store(), directory.store()),
    ] {
        std::fs::rename(&from, &to).with_context(|| format!("cannot make {}", to.display()))?;
    }
    std::fs::remove_dir(building.path()).context("cannot remove the directory .new")?;
    directory.sync().with_context(|| format!("cannot sync {}", directory.path().display()))?;
    Ok(context)
}

fn leaf(ca: &IssuingCa, id: SpiffeId, now: u64) -> Result<(Credentials, Op)> {
    let key = PrivateKey::generate()?;
    let csr = VerifiedCsr::from_der(&key.csr()?)?;
    let issued = ca.issue(&csr, &id, LEAF_LIFETIME, now)?;
    let record = record::Cert {
        id,
        spki: issued.spki_sha256,
        not_before: issued.not_before,
        not_after: issued.not_after,
        renews: None,
        issuer: Some(ca.spki_sha256()),
        bundle: None,
    };
    let op = put(&Key::Cert(issued.serial), &record);
    let chain = vec![issued.der, ca.certificate().clone()];
    Ok((Credentials { chain, key }, op))
}

fn put<T: serde::Serialize>(key: &Key, record: &T) -> Op {
    Op::Put { key: key.to_string(), value: record::encode(record) }
}

fn report(directory: &DataDir, initial: &Initial, context: &std::path::Path) {
    let Initial { mesh, name, admin, addresses } = initial;
    let shown = directory.path().display();
    eprintln!("mesh {mesh} is made in {shown}");
    eprintln!("  root CA      {}", directory.ca().join(RootCa::CERTIFICATE_FILE).display());
    eprintln!(
        "  its key      {} (take it offline: it is needed to add a controller or rotate a CA)",
        directory.ca().join(RootCa::KEY_FILE).display()
    );
    let places: Vec<&str> = addresses.iter().map(Endpoint::as_str).collect();
    eprintln!("  controller   {name} at {}", places.join(", "));
    eprintln!("  admin        {admin}, context in {}", context.display());
    eprintln!("next: cframe-controller run --data-dir {shown}");
}

pub(super) fn default_context() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => match std::env::var_os("HOME").filter(|path| !path.is_empty()) {
            Some(home) => PathBuf::from(home).join(".config"),
            None => {
                bail!("HOME is not set: say where the admin's context goes with --admin-context")
            }
        },
    };
    Ok(base.join("cframe").join("config.toml"))
}

/// `HOST` or `HOST:PORT`; an IPv6 address with or without brackets.
fn address(text: &str) -> Result<Endpoint, String> {
    let whole: Result<Endpoint, _> = text.parse();
    if let Ok(endpoint) = whole {
        return Ok(endpoint);
    }
    let host = match text.parse::<std::net::Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]"),
        Err(_) => text.to_owned(),
    };
    format!("{host}:{CONTROL_PORT}")
        .parse()
        .map_err(|error: cframe_protocol::v1::EndpointError| error.to_string())
}

/// The clock in Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_gets_the_usual_one() {
        let shown = |text| address(text).unwrap().to_string();
        assert_eq!(shown("203.0.113.5"), "203.0.113.5:58422");
        assert_eq!(shown("ctl.example.com"), "ctl.example.com:58422");
        assert_eq!(shown("2001:db8::5"), "[2001:db8::5]:58422");
        assert_eq!(shown("[2001:db8::5]:7"), "[2001:db8::5]:7");
        assert!(address("").is_err());
        assert!(address("a b").is_err());
    }
}

//! `init`: a new mesh, or with `--join` one more controller for one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use cframe_pki::{
    bundle::TrustBundle,
    files,
    identity::{Label, MeshName, SpiffeId},
    issue::RootCa,
    unix_now,
};
use cframe_protocol::{CONTROL_PORT, v1::Endpoint};
use cframe_store::{CommitError, Compare, Op, Store, Txn, redb::Redb};
use clap::Args;

use crate::{
    cli::{
        AdminContext, Contexts, DataDir, Failure,
        context::default_path,
        join::{self, Joining},
        open_store, opening,
        records::{local_record, new_leaf, put},
    },
    clock::unix_millis,
    config::{Config, StoreConfig},
    model::record::{AdminRecord, ControllerRecord, IssuerRecord, Key, MeshRecord, ROOT},
};

/// Flags of `init`.
#[derive(Debug, Args)]
pub struct InitFlags {
    /// The mesh's name, a DNS name such as corp.example
    #[arg(long, value_name = "NAME", required_unless_present = "join")]
    mesh: Option<MeshName>,
    /// Add a controller to the mesh in the store, with its own issuing CA
    #[arg(long)]
    join: bool,
    /// With --join: directory of the root's certificate and key; without this, a request for `ca sign` is written
    #[arg(long, value_name = "DIR", requires = "join")]
    root: Option<PathBuf>,
    /// With --join: what `ca sign` made from the request
    #[arg(long, value_name = "FILE", requires = "join", conflicts_with = "root")]
    issuing_certificate: Option<PathBuf>,
    /// Where edges and admins reach this controller; repeat it for several
    #[arg(long, value_name = "HOST[:PORT]", required = true, value_delimiter = ',', value_parser = address)]
    address: Vec<Endpoint>,
    /// The controller's name
    #[arg(long, value_name = "NAME", default_value = "controller")]
    name: Label,
    /// The first admin's name
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: Label,
    /// The file for the first admin's context [default: ~/.config/cframe/config.toml]
    #[arg(long, value_name = "FILE")]
    admin_context: Option<PathBuf>,
}

/// What a new mesh starts with.
#[derive(Debug, Clone)]
pub struct Initial {
    pub mesh: MeshName,
    /// The controller's name.
    pub name: Label,
    /// The first admin's name.
    pub admin: Label,
    /// The controller's control ports.
    pub addresses: Vec<Endpoint>,
}

pub(super) async fn command(config: &Config, flags: InitFlags) -> Result<(), Failure> {
    let InitFlags { mesh, join, root, issuing_certificate, address, name, admin, admin_context } =
        flags;
    let mesh = match mesh {
        Some(mesh) if !join => mesh,
        Some(_) | None => {
            let joining = Joining { name, addresses: address };
            let flags = join::Flags { joining, root, issuing_certificate };
            return join::command(config, flags).await;
        }
    };
    let path = match admin_context {
        Some(path) => path,
        None => default_path()?,
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
    if directory.has_store() || directory.has_keys() && !directory.is_unfinished() {
        return Err(Failure::conflict(anyhow!(
            "{} has a mesh already; give another directory with --data-dir",
            directory.path().display()
        )));
    }
    let initial = Initial { mesh, name, admin, addresses: address };
    let context = match &config.store {
        StoreConfig::Embedded => initialise(&directory, &initial).await?,
        StoreConfig::Etcd(_) => {
            let store = open_store(config).await?;
            let context = initialise_in(&directory, &initial, &*store).await;
            store.close().await;
            context.map_err(|error| match error.downcast_ref::<TakenError>() {
                Some(_) => Failure::conflict(error.context(opening::place(config))),
                None => Failure::from(error.context(opening::place(config))),
            })?
        }
    };
    contexts.put(context_name, context);
    contexts.save(&path).context("the admin's context")?;
    report(config, &initial, &path);
    Ok(())
}

/// Makes a mesh in a data directory: CAs, the controller's certificate, the store. Returns the first admin's context, which
/// is not saved. After an error, the next attempt deletes what this one left in a directory `.new`.
pub async fn initialise(directory: &DataDir, initial: &Initial) -> Result<AdminContext> {
    let building = Building::new(directory, initial)?;
    let path = building.place.store();
    let store = tokio::task::spawn_blocking(move || Redb::open(&path)).await??;
    store.commit(Txn { compares: Vec::new(), ops: building.ops.clone() }).await?;
    store.close().await;
    // The store last: it makes the mesh complete.
    building.move_into_place(directory, true)?;
    Ok(building.context)
}

/// [`initialise`] with a shared store. First the keys are put into place, with a file `init-unfinished`. Then one transaction,
/// which requires that the store has no mesh, puts the mesh into it.
///
/// # Errors
/// [`TakenError`] if the store is not empty. After any error, the next attempt deletes what this one left; if the mesh is in
/// the store after all, it says so.
pub async fn initialise_in(
    directory: &DataDir,
    initial: &Initial,
    store: &dyn Store,
) -> Result<AdminContext> {
    let found = store.list(ROOT).await?;
    let has_mesh = found.entries.iter().any(|entry| entry.key == Key::Mesh.to_string());
    if directory.is_unfinished() {
        if has_mesh && is_ours(directory, &found)? {
            std::fs::remove_file(directory.unfinished())?;
            bail!(
                "an earlier init that was interrupted made the mesh; start the controller, and make an admin's context \
                 with `cframe-controller admin`"
            );
        }
        for leftover in [directory.ca(), directory.identity()] {
            remove_dir(&leftover)?;
        }
    }
    match found.entries.first() {
        Some(_) if has_mesh => return Err(TakenError::Mesh.into()),
        Some(entry) => return Err(TakenError::Part(entry.key.clone()).into()),
        None => {}
    }
    let building = Building::new(directory, initial)?;
    files::write_public(&directory.unfinished(), b"")?;
    building.move_into_place(directory, false)?;
    let compares = vec![Compare { key: Key::Mesh.to_string(), modified: 0 }];
    match store.commit(Txn { compares, ops: building.ops.clone() }).await {
        Ok(_) => {}
        Err(CommitError::Conflict(_)) => return Err(TakenError::Mesh.into()),
        Err(error) => {
            return Err(anyhow::Error::from(error).context("the mesh was not made; run init again"));
        }
    }
    std::fs::remove_file(directory.unfinished())?;
    directory.sync().with_context(|| format!("cannot sync {}", directory.path().display()))?;
    Ok(building.context)
}

/// The store is not empty.
#[derive(Debug, thiserror::Error)]
pub enum TakenError {
    #[error(
        "there is a mesh already; add a controller to it with `init --join`, or use another etcd for another mesh"
    )]
    Mesh,
    /// Left by an interrupted restore.
    #[error(
        "there is {0} and no mesh, which an interrupted restore leaves; run `restore` again, or delete it"
    )]
    Part(String),
}

/// Whether the mesh in the store is that of the keys in the directory.
fn is_ours(directory: &DataDir, found: &cframe_store::View) -> Result<bool> {
    if !directory.has_keys() {
        return Ok(false);
    }
    let own = Key::Cert(directory.credentials()?.identity().serial).to_string();
    Ok(found.entries.iter().any(|entry| entry.key == own))
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A new mesh in the directory `.new`, before it is moved into place.
struct Building {
    place: DataDir,
    /// For the store.
    ops: Vec<Op>,
    context: AdminContext,
}

impl Building {
    fn new(directory: &DataDir, initial: &Initial) -> Result<Self> {
        directory.ensure()?;
        let place = DataDir::new(directory.path().join(".new"));
        remove_dir(place.path())?;
        place.ensure()?;
        let now = unix_now();
        let root = RootCa::generate(&initial.mesh, now)?;
        let issuing = root.issuing_ca(now)?;
        root.save(&place.ca())?;
        issuing.save(&place.ca())?;

        let controller = SpiffeId::controller(initial.mesh.clone(), initial.name.clone());
        let (own, own_record) = new_leaf(&issuing, controller, now)?;
        own.save(&place.identity())?;
        let admin = SpiffeId::admin(initial.mesh.clone(), initial.admin.clone());
        let (admin, admin_record) = new_leaf(&issuing, admin, now)?;

        let roots = vec![root.certificate().clone()];
        let trust = TrustBundle { roots, ..TrustBundle::default() };
        let controllers: Vec<String> = initial.addresses.iter().map(ToString::to_string).collect();
        let context = AdminContext::new(initial.mesh.to_string(), controllers, &admin, &trust);
        let mesh = MeshRecord {
            name: initial.mesh.clone(),
            epoch: unix_millis(),
            revision: 1,
            trust,
            controllers: initial.addresses.iter().cloned().collect(),
            roots_since: BTreeMap::new(),
        };
        let first_admin = AdminRecord { read_only: false };
        let issuer = IssuerRecord {
            controller: initial.name.clone(),
            root: root.spki_sha256(),
            not_before: issuing.not_before(),
            not_after: issuing.not_after(),
            added: now,
            signs: true,
        };
        let registration = ControllerRecord {
            addresses: initial.addresses.clone(),
            issuer: issuing.certificate().clone(),
            added: now,
        };
        let ops = vec![
            put(&Key::Mesh, &mesh),
            put(&Key::Controller(initial.name.clone()), &registration),
            put(&Key::Admin(initial.admin.clone()), &first_admin),
            put(&Key::Issuer(issuing.spki_sha256()), &issuer),
            own_record,
            admin_record,
            local_record(&initial.name, "init", initial.mesh.to_string()),
        ];
        Ok(Self { place, ops, context })
    }

    /// Moves everything into place, the store last.
    fn move_into_place(&self, directory: &DataDir, with_store: bool) -> Result<()> {
        let mut moves =
            vec![(self.place.ca(), directory.ca()), (self.place.identity(), directory.identity())];
        if with_store {
            moves.push((self.place.store(), directory.store()));
        }
        for (from, to) in moves {
            std::fs::rename(&from, &to).with_context(|| format!("cannot make {}", to.display()))?;
        }
        std::fs::remove_dir(self.place.path()).context("cannot remove the directory .new")?;
        directory.sync().with_context(|| format!("cannot sync {}", directory.path().display()))
    }
}

fn report(config: &Config, initial: &Initial, context: &Path) {
    let Initial { mesh, name, admin, addresses } = initial;
    let directory = DataDir::new(&config.data_dir);
    let shown = directory.path().display();
    eprintln!("made mesh {mesh} in {}", opening::place(config));
    eprintln!("  root CA      {}", directory.ca().join(RootCa::CERTIFICATE_FILE).display());
    eprintln!(
        "  its key      {} (move it offline: it is needed to add a controller or rotate a CA)",
        directory.ca().join(RootCa::KEY_FILE).display()
    );
    let places: Vec<&str> = addresses.iter().map(Endpoint::as_str).collect();
    eprintln!("  controller   {name} at {}", places.join(", "));
    eprintln!("  admin        {admin}, context in {}", context.display());
    let store = if config.store.is_shared() { ", with the same store" } else { "" };
    eprintln!("next: cframe-controller run --data-dir {shown}{store}");
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

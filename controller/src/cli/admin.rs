//! `admin`: makes an admin or a new certificate for one, on the controller's own host.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use cframe_pki::{CertificateDer, identity::Label, key::PrivateKey, tls::Credentials};
use clap::Args;

use crate::{
    cli::{AdminContext, Contexts, DataDir, Failure, context::default_path},
    config::Config,
    serve::local,
};

/// Flags of `admin`.
#[derive(Debug, Args)]
pub(super) struct AdminFlags {
    /// The admin's name
    #[arg(long, value_name = "NAME", default_value = "admin")]
    name: Label,
    /// For a new admin: read-only; an existing admin stays what it is
    #[arg(long)]
    read_only: bool,
    /// The file for the context, whose context of this mesh is replaced [default: ~/.config/cframe/config.toml]
    #[arg(long, value_name = "FILE")]
    admin_context: Option<PathBuf>,
}

pub(super) async fn command(config: &Config, flags: AdminFlags) -> Result<(), Failure> {
    let AdminFlags { name, read_only, admin_context } = flags;
    let path = match admin_context {
        Some(path) => path,
        None => default_path()?,
    };
    let mut contexts = Contexts::load(&path).context("the admin's context")?;
    let socket = DataDir::new(&config.data_dir).socket();
    let key = PrivateKey::generate()?;
    let answer = local::request_admin(&socket, &name, read_only, &key.csr()?).await;
    let enrolled = answer.with_context(|| format!("the controller at {}", socket.display()))?;
    let Some(enrolled) = enrolled else {
        return Err(Failure::unreachable(anyhow!(
            "no controller is running on {}; start it first, or name its directory with --data-dir",
            config.data_dir.display()
        )));
    };
    let chain = enrolled.chain.into_iter().map(CertificateDer::from).collect();
    let context = AdminContext::new(
        enrolled.mesh.to_string(),
        enrolled.controllers.iter().map(ToString::to_string).collect(),
        &Credentials { chain, key },
        &enrolled.trust,
    );
    contexts.put(enrolled.mesh.to_string(), context);
    contexts.save(&path).context("the admin's context")?;
    eprintln!("admin {name} of mesh {}, context in {}", enrolled.mesh, path.display());
    Ok(())
}

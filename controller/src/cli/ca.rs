//! `ca`: keys and certificates for a rotation. Roots can be made and used anywhere, also offline; issuing CAs belong to the
//! controller of the data directory.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use cframe_pki::{
    CertificateDer, Fingerprint, files,
    identity::MeshName,
    issue::{
        CaCertificate, RootCa, VerifiedCsr, read_certificates, write_certificates, write_request,
    },
    renewal::days_left,
    unix_now,
};
use clap::{Args, Subcommand};

use crate::{
    cli::{DataDir, Failure},
    config::Config,
    keys::{authorities::Authorities, issuer::Issuer},
    serve::local,
};

#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make a root CA: root.pem and root-key.pem, in a new directory that can be anywhere, also offline
    NewRoot {
        /// The mesh's name
        #[arg(long, value_name = "NAME")]
        mesh: MeshName,
        /// The new directory; with its key one can do everything in the mesh
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make the key of another issuing CA here, and a signing request for `ca sign`
    Request {
        /// The file for the request
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a controller's request with a root's key: an issuing CA's certificate, and the root's after it
    Sign {
        /// The request
        #[arg(value_name = "REQUEST")]
        request: PathBuf,
        /// The directory with root.pem and root-key.pem
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// The file for the certificate
        #[arg(long, value_name = "CERT")]
        out: PathBuf,
    },
    /// Make the running controller sign with another issuing CA, made with a root's key or signed elsewhere
    Renew(RenewFlags),
    /// Make the running controller sign with an issuing CA that it had before
    Use {
        /// Its fingerprint, as `ca list` shows it
        #[arg(value_name = "FINGERPRINT")]
        fingerprint: Fingerprint,
        /// Also if edges lack the root above it
        #[arg(long)]
        force: bool,
    },
    /// List this controller's issuing CAs, the one that signs marked
    List,
}

/// Flags of `ca renew`.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct RenewFlags {
    /// The directory with the root's certificate and key; the new key is made on this host
    #[arg(long, value_name = "DIR", required_unless_present = "certificate")]
    root: Option<PathBuf>,
    /// What `ca sign` made from a request of this host
    #[arg(long, value_name = "CERT", conflicts_with = "root")]
    certificate: Option<PathBuf>,
    /// Also if edges lack the root above it
    #[arg(long)]
    force: bool,
}

pub(super) async fn command(config: &Config, command: CaCommand) -> Result<(), Failure> {
    let directory = DataDir::new(&config.data_dir);
    match command {
        CaCommand::NewRoot { mesh, out } => new_root(&mesh, &out),
        CaCommand::Request { out } => request(&directory, &out),
        CaCommand::Sign { request, root, out } => sign(&request, &root, &out),
        CaCommand::Renew(flags) => renew(&directory, &flags).await,
        CaCommand::Use { fingerprint, force } => sign_with(&directory, fingerprint, force).await,
        CaCommand::List => list(&directory),
    }
}

fn new_root(mesh: &MeshName, out: &Path) -> Result<(), Failure> {
    let root = RootCa::generate(mesh, unix_now())?;
    root.save(out)?;
    println!("{}", root.spki_sha256());
    eprintln!(
        "root CA of mesh {mesh}: {}; with the key beside it one can do everything in the mesh",
        out.join(RootCa::CERTIFICATE_FILE).display()
    );
    eprintln!("next: cfctl ca rotate add {}", out.join(RootCa::CERTIFICATE_FILE).display());
    Ok(())
}

fn request(directory: &DataDir, out: &Path) -> Result<(), Failure> {
    let csr = own(directory)?.request()?;
    write_request(out, &csr)?;
    eprintln!(
        "next, where the root's key is: cframe-controller ca sign {} --root DIR --out CERT",
        out.display()
    );
    Ok(())
}

fn sign(request: &Path, root: &Path, out: &Path) -> Result<(), Failure> {
    if out.symlink_metadata().is_ok() {
        return Err(Failure::conflict(anyhow!("{} exists; name a new file", out.display())));
    }
    let text = files::read_public(request)?;
    let csr = VerifiedCsr::from_pem(text).with_context(|| format!("{}", request.display()))?;
    let root = load_root(root)?;
    let certificate = root.sign_issuing(&csr, unix_now())?;
    write_certificates(out, &[certificate, root.certificate().clone()])?;
    println!("{}", csr.spki_sha256());
    Ok(())
}

async fn renew(directory: &DataDir, flags: &RenewFlags) -> Result<(), Failure> {
    let authorities = own(directory)?;
    // Checked before anything is made.
    if !directory.socket().exists() {
        return Err(not_running(directory));
    }
    let fingerprint = match (&flags.root, &flags.certificate) {
        (_, Some(path)) => {
            let (certificate, root) = signed(path)?;
            authorities.complete(&certificate, &root)?
        }
        (Some(root), None) => {
            let root = load_root(root)?;
            let csr = VerifiedCsr::from_der(&authorities.request()?)?;
            let certificate = root.sign_issuing(&csr, unix_now())?;
            authorities.complete(&certificate, root.certificate())?
        }
        (None, None) => return Err(anyhow!("give --root DIR or --certificate CERT").into()),
    };
    sign_with(directory, fingerprint, flags.force).await
}

/// The two certificates that `ca sign` writes.
fn signed(path: &Path) -> Result<(CertificateDer<'static>, CertificateDer<'static>)> {
    let found = read_certificates(path)?;
    let [certificate, root] = found.as_slice() else {
        return Err(anyhow!(
            "{} has {} certificates; `ca sign` writes two, the issuing CA's and its root's",
            path.display(),
            found.len()
        ));
    };
    CaCertificate::root(root).with_context(|| format!("{}", path.display()))?;
    Ok((certificate.clone(), root.clone()))
}

async fn sign_with(
    directory: &DataDir,
    fingerprint: Fingerprint,
    force: bool,
) -> Result<(), Failure> {
    let before = own(directory)?.current()?.ca().spki_sha256();
    let socket = directory.socket();
    let answer = local::request_issuer(&socket, fingerprint, force).await;
    let answer = answer.map_err(|error| {
        Failure::conflict(
            anyhow::Error::from(error).context(format!("issuing CA {fingerprint} is not used")),
        )
    })?;
    let Some(warnings) = answer else { return Err(not_running(directory)) };
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    println!("{fingerprint}");
    eprintln!(
        "the controller signs with issuing CA {fingerprint}; to go back: cframe-controller ca use {before}"
    );
    Ok(())
}

fn list(directory: &DataDir) -> Result<(), Failure> {
    let authorities = own(directory)?;
    let current = authorities.current()?.ca().spki_sha256();
    let row = |issuer: &Issuer| {
        let fingerprint = issuer.ca().spki_sha256();
        let mark = if fingerprint == current { "signs" } else { "-" };
        let days = days_left(issuer.ca().not_after(), unix_now());
        format!("{fingerprint}  {}  {days}d  {mark}", issuer.pin())
    };
    println!("{:64}  {:64}  EXPIRES  STATE", "FINGERPRINT", "ROOT");
    for issuer in authorities.list()? {
        println!("{}", row(&issuer));
    }
    Ok(())
}

fn own(directory: &DataDir) -> Result<Authorities, Failure> {
    if directory.has_keys() {
        return Ok(directory.authorities());
    }
    Err(Failure::not_found(anyhow!(
        "there is no controller in {}; name its directory with --data-dir",
        directory.path().display()
    )))
}

fn not_running(directory: &DataDir) -> Failure {
    Failure::unreachable(anyhow!(
        "no controller is running on {}; start it first, or name its directory with --data-dir",
        directory.path().display()
    ))
}

/// The root in a directory; the path may also be that of its certificate.
pub(super) fn load_root(path: &Path) -> Result<RootCa, Failure> {
    let directory = match path.parent() {
        Some(parent) if path.is_file() => parent,
        Some(_) | None => path,
    };
    Ok(RootCa::load(directory)
        .with_context(|| format!("the root CA in {}", directory.display()))?)
}

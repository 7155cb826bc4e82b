//! `backup` and `restore`.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use cframe_pki::{files, unix_now};
use cframe_store::{Op, Store, Txn, redb::Redb};
use clap::Args;
use zeroize::Zeroizing;

use crate::{
    backup::{self, BackupError},
    cli::{DataDir, Failure, open_store, opening, records::local_record},
    clock::unix_millis,
    config::{Config, StoreConfig},
    serve::local,
};

/// Flags of `backup`.
#[derive(Debug, Args)]
pub(super) struct BackupFlags {
    /// The new file, or - for stdout
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Encrypt the CA's keys with the first line of this file, and put them in
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreFlags {
    /// The backup
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Decrypt the CA's keys with the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

pub(super) async fn backup(config: &Config, flags: BackupFlags) -> Result<(), Failure> {
    let directory = DataDir::new(&config.data_dir);
    let mut dump = make_dump(config, &directory).await?;
    match &flags.passphrase_file {
        Some(path) => {
            let passphrase = passphrase(path)?;
            let keys = directory.key_files()?;
            dump = tokio::task::spawn_blocking(move || backup::add_keys(&dump, &passphrase, &keys))
                .await??;
        }
        None => eprintln!(
            "the CA's keys are not in it: save {} separately, or give --passphrase-file",
            directory.ca().display()
        ),
    }
    let parsed = backup::parse(&dump).context("the new backup")?;
    if flags.out == Path::new("-") {
        std::io::stdout().write_all(&dump)?;
    } else {
        files::write_secret(&flags.out, &dump)?;
    }
    let (entries, sealed) = (parsed.entries.len(), parsed.sealed.len());
    eprintln!("{entries} entries and {sealed} sealed files of mesh {}", parsed.header.mesh);
    Ok(())
}

/// From the controller that runs on the directory; if none does, from its store.
async fn make_dump(config: &Config, directory: &DataDir) -> Result<Vec<u8>, Failure> {
    let socket = directory.socket();
    let answer = local::request_backup(&socket).await;
    if let Some(dump) = answer.with_context(|| format!("cannot use {}", socket.display()))? {
        return Ok(dump);
    }
    // A running controller can still read a store that was deleted.
    if !config.store.is_shared() && !directory.has_store() {
        return Err(no_mesh(directory));
    }
    let controller = directory.controller()?;
    let store = open_store(config).await?;
    let dump = backup::dump(&*store, unix_now()).await;
    if dump.is_ok() {
        let ops = vec![local_record(&controller, "backup", String::new())];
        if let Err(error) = store.commit(Txn { compares: Vec::new(), ops }).await {
            tracing::warn!(%error, "the audit log has no record of this backup");
        }
    }
    store.close().await;
    Ok(dump?)
}

pub(super) async fn restore(config: &Config, flags: RestoreFlags) -> Result<(), Failure> {
    let directory = DataDir::new(&config.data_dir);
    if directory.has_store() && !config.store.is_shared() {
        return Err(Failure::conflict(anyhow!(
            "{} has a mesh already; restore into another directory with --data-dir",
            directory.path().display()
        )));
    }
    let shown = flags.input.display();
    let bytes = std::fs::read(&flags.input).with_context(|| format!("cannot read {shown}"))?;
    let dump = backup::parse(&bytes).with_context(|| format!("{shown} cannot be restored"))?;
    if !directory.has_keys() {
        put_keys(&directory, &dump, flags.passphrase_file.as_deref())?;
    }
    directory.ensure()?;
    let issuer = directory.issuer()?;
    if issuer.ca().mesh().as_str() != dump.header.mesh {
        return Err(Failure::conflict(anyhow!(
            "the keys in {} are of mesh {}, the backup is of mesh {}",
            directory.ca().display(),
            issuer.ca().mesh(),
            dump.header.mesh
        )));
    }
    let epoch = match &config.store {
        StoreConfig::Embedded => make_store(&directory, &dump).await?,
        StoreConfig::Etcd(_) => fill_store(config, &directory, &dump).await?,
    };
    let age = unix_now().saturating_sub(dump.header.made) / 60;
    eprintln!(
        "mesh {} is restored, epoch {epoch}; the backup is {age} minutes old",
        dump.header.mesh
    );
    eprintln!(
        "join tokens are void: make new ones; revoke again what was revoked since the backup"
    );
    Ok(())
}

/// The store is made under another name first, so that an interrupted restore leaves no mesh.
async fn make_store(directory: &DataDir, dump: &backup::Dump) -> Result<u64> {
    let unfinished = directory.path().join("store.restoring");
    let path = unfinished.clone();
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let store = tokio::task::spawn_blocking(move || Redb::open(&path)).await??;
    let record = restored(directory, dump)?;
    let epoch = backup::restore(&store, dump, unix_millis(), record).await;
    store.close().await;
    let epoch = epoch?;
    std::fs::rename(&unfinished, directory.store())?;
    directory.sync()?;
    Ok(epoch)
}

/// A shared store is filled where it is: it has no mesh until all is there.
async fn fill_store(
    config: &Config,
    directory: &DataDir,
    dump: &backup::Dump,
) -> Result<u64, Failure> {
    let store = open_store(config).await?;
    let record = restored(directory, dump)?;
    let epoch = backup::restore(&*store, dump, unix_millis(), record).await;
    store.close().await;
    epoch.map_err(|error| {
        let taken = matches!(error, BackupError::NotEmpty);
        let error = anyhow::Error::from(error).context(opening::place(config));
        if taken { Failure::conflict(error) } else { Failure::from(error) }
    })
}

fn restored(directory: &DataDir, dump: &backup::Dump) -> Result<Op> {
    let subject = format!("backup of {} (Unix seconds)", dump.header.made);
    Ok(local_record(&directory.controller()?, "restore", subject))
}

fn put_keys(
    directory: &DataDir,
    dump: &backup::Dump,
    passphrase_file: Option<&Path>,
) -> Result<(), Failure> {
    if dump.sealed.is_empty() {
        return Err(Failure::not_found(anyhow!(
            "the backup has no keys; put the directories ca and identity of the controller into {} first",
            directory.path().display()
        )));
    }
    let Some(path) = passphrase_file else {
        return Err(anyhow!("the backup's keys are sealed; give --passphrase-file").into());
    };
    let passphrase = passphrase(path)?;
    // All are decrypted before one is written.
    let opened: Result<Vec<_>> = dump
        .sealed
        .iter()
        .map(|(name, sealed)| Ok((name, cframe_pki::seal::open(&passphrase, sealed)?)))
        .collect();
    directory.ensure()?;
    for (name, content) in opened? {
        directory.put_key_file(name, &content)?;
    }
    Ok(())
}

fn passphrase(path: &Path) -> Result<Zeroizing<String>> {
    let content = files::read_secret(path).context("the passphrase")?;
    let text = std::str::from_utf8(&content).context("the passphrase is not text")?;
    let line = text.lines().next().unwrap_or_default();
    anyhow::ensure!(!line.is_empty(), "{} has no passphrase on its first line", path.display());
    Ok(Zeroizing::new(line.to_owned()))
}

fn no_mesh(directory: &DataDir) -> Failure {
    Failure::not_found(anyhow!(
        "there is no mesh in {}; name its directory with --data-dir",
        directory.path().display()
    ))
}

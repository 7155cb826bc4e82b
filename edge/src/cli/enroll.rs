//! `join`, `csr` and `import`: how an edge gets its identity.

use std::{io::Read as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use cframe_pki::{
    files,
    identity::{PeerIdentity, SpiffeId},
    key::PrivateKey,
    token::JoinToken,
};
use cframe_protocol::{session, v1::Enrolled};

use super::{exit::Coded, exit::Exit, runtime};
use crate::{
    config::{File, Place},
    instance::{DEFAULT, Instance, Paths},
    state,
};

/// For all of an enrolment.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn join(place: &Place, token: &str, listen: Option<u16>, replace: bool) -> Result<()> {
    let token: JoinToken = match token {
        "-" => read_stdin()?.parse()?,
        token => token.parse()?,
    };
    let (instance, paths, file) = place.resolve()?;
    files::ensure_private_dir(&paths.data)?;
    let key = PrivateKey::generate()?;
    let csr = key.csr()?.to_vec();
    let enrolled = runtime()?.block_on(session::enroll(&token, csr, None, LIMIT))?;
    finish(place, &instance, &paths, file, key, &enrolled, listen, replace)
}

pub(super) fn csr(place: &Place) -> Result<()> {
    let (_, paths, _) = place.resolve()?;
    let key = state::pending_key(&paths.data)?;
    print!("{}", key.csr_pem()?);
    eprintln!(
        "the key stays in {}; next: cfctl cert enroll --csr FILE, then cframe-edge import \
         enrolled.json",
        paths.data.display()
    );
    Ok(())
}

pub(super) fn import(
    place: &Place,
    answer: &Path,
    listen: Option<u16>,
    replace: bool,
) -> Result<()> {
    let (instance, paths, file) = place.resolve()?;
    let enrolled = match answer.to_str() {
        Some("-") => state::parse_answer(read_stdin()?.as_bytes())?,
        _ => state::read_answer(answer)?,
    };
    let key = state::pending_key(&paths.data)?;
    finish(place, &instance, &paths, file, key, &enrolled, listen, replace)
}

#[expect(clippy::too_many_arguments, reason = "the end of two commands")]
fn finish(
    place: &Place,
    instance: &Instance,
    paths: &Paths,
    file: File,
    key: PrivateKey,
    enrolled: &Enrolled,
    listen: Option<u16>,
    replace: bool,
) -> Result<()> {
    let Enrolled { mesh, namespace, edge, .. } = enrolled;
    let new = SpiffeId::edge(mesh.clone(), namespace.clone(), edge.clone());
    if let Some(old) = state::existing(&paths.data)
        && old != new
        && !replace
    {
        let text = format!(
            "{} has the identity {old} and the new one is {new}: nothing was kept; use --replace \
             with another token, or --instance NAME for a second edge on this host",
            paths.data.display()
        );
        return Err(Coded::error(Exit::Conflict, text));
    }
    let identity = state::adopt(&paths.data, key, enrolled)?;
    write_config(instance, paths, file, listen)?;
    report(place, paths, &identity);
    Ok(())
}

/// Writes what the command line said; what the file says besides stays.
fn write_config(
    instance: &Instance,
    paths: &Paths,
    mut file: File,
    listen: Option<u16>,
) -> Result<()> {
    let before = file.clone();
    file.instance = Some(instance.name().to_owned());
    file.listen = listen.or(file.listen);
    if file == before {
        return Ok(());
    }
    if let Some(parent) = paths.config.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
    }
    Ok(files::write_public(&paths.config, toml::to_string(&file)?.as_bytes())?)
}

fn report(place: &Place, paths: &Paths, identity: &PeerIdentity) {
    let days = cframe_pki::renewal::days_left(identity.not_after, cframe_pki::unix_now());
    println!("joined as {}, certificate for {days} days", identity.id);
    println!("  identity       {}", paths.data.display());
    println!("  configuration  {}", paths.config.display());
    let mut run = "cframe-edge run".to_owned();
    if let Some(dir) = &place.data_dir {
        run.push_str(&format!(" --data-dir {}", dir.display()));
    }
    if let Some(instance) = place.instance.as_deref().filter(|name| *name != DEFAULT) {
        run.push_str(&format!(" --instance {instance}"));
    }
    println!("next: {run}");
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().take(1 << 16).read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

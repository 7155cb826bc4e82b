//! `join`, `csr` and `import`: how an edge gets its identity.

use std::{io::Read as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use cframe_console::exit::Exit;
use cframe_pki::{
    files,
    identity::{PeerIdentity, SpiffeId},
    key::PrivateKey,
    token::JoinToken,
};
use cframe_protocol::{session, v1::Enrolled};

use super::{exit::Coded, runtime};
use crate::{
    config::{File, Place},
    instance::{DEFAULT, Instance, Paths},
    local,
    state::{self, Cut},
    status::Status,
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
    if !replace {
        spare_token(&paths.data)?;
    }
    // Kept before the token is spent: a disk that takes nothing shows here.
    let key = state::pending_key(&paths.data)?;
    let csr = key.csr()?.to_vec();
    let enrolled = runtime()?.block_on(session::enroll(&token, csr, None, LIMIT))?;
    finish(place, &instance, &paths, file, key, &enrolled, listen, replace)
}

/// A token says for whom it is only when it is spent, so that what can be told before is: a directory
/// whose identity is in use needs none.
fn spare_token(data: &Path) -> Result<()> {
    let Ok((_, identity, _)) = state::load(data) else { return Ok(()) };
    let days = cframe_pki::renewal::days_left(identity.not_after, cframe_pki::unix_now());
    if days < 0 || Cut::load(data, identity.serial).is_some() {
        return Ok(());
    }
    let text = format!(
        "{} has the identity {}, which is good for {days} days: the token was not used; join with \
         --replace to take its place, or with --instance NAME for a second edge on this host",
        data.display(),
        identity.id
    );
    Err(Coded::error(Exit::Conflict, text))
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
    let identity = state::save_identity(&paths.data, key, enrolled)?;
    write_config(instance, paths, file, listen)?;
    report(place, paths, &identity, runtime()?.block_on(local::status(&paths.socket)).ok());
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

fn report(place: &Place, paths: &Paths, identity: &PeerIdentity, running: Option<Status>) {
    let days = cframe_pki::renewal::days_left(identity.not_after, cframe_pki::unix_now());
    println!("joined as {}, certificate for {days} days", identity.id);
    println!("  identity       {}", paths.data.display());
    println!("  configuration  {}", paths.config.display());
    match running {
        Some(status) if status.id == identity.id.to_string() => {
            return println!("next: nothing; pid {} takes it up within seconds", status.pid);
        }
        Some(status) => {
            return println!(
                "next: restart cframe-edge (pid {}), which is still {}",
                status.pid, status.id
            );
        }
        None => {}
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::exit::exit_code, state::tests::enrolled_for};

    #[test]
    fn a_token_is_not_spent_where_an_identity_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("edge");
        spare_token(&data).unwrap();
        let identity = enrolled_for(&data, "idc");
        let error = spare_token(&data).unwrap_err();
        assert_eq!(exit_code(&error), Exit::Conflict);
        let text = error.to_string();
        assert!(text.contains("/edge/idc") && text.contains("--replace"), "{text}");

        // One that was cut off needs another.
        Cut::new("its certificate was revoked", identity.serial, true).save(&data);
        spare_token(&data).unwrap();
    }
}

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
    config::{CommonFlags, Options},
    instance::{DEFAULT, Instance, Paths},
    local,
    state::{self, Cut},
    status::Status,
};

/// For a whole enrolment.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn join(
    common: &CommonFlags,
    token: &str,
    listen: Option<u16>,
    replace: bool,
) -> Result<()> {
    let token: JoinToken = match token {
        "-" => read_stdin()?.parse()?,
        token => token.parse()?,
    };
    let target = Target::resolve(common, listen, replace)?;
    let data = &target.paths.data;
    files::ensure_private_dir(data)?;
    if !replace {
        check_token_is_needed(data)?;
    }
    // Saved before the token is used: an error of the disk shows here.
    let key = state::pending_key(data)?;
    let csr = key.csr()?.to_vec();
    let enrolled = runtime()?.block_on(session::enroll(&token, csr, None, TIMEOUT))?;
    target.save(key, &enrolled)
}

/// Which identity a token is for is known only once it is used up. A directory with a valid identity does not
/// need one, and that can be checked before.
fn check_token_is_needed(data: &Path) -> Result<()> {
    let Ok((_, identity, _)) = state::load(data) else { return Ok(()) };
    let days = cframe_pki::renewal::days_left(identity.not_after, cframe_pki::unix_now());
    if days < 0 || Cut::load(data, identity.serial).is_some() {
        return Ok(());
    }
    let text = format!(
        "{} has the identity {}, which is valid for {days} days: the token was not used; join with \
         --replace to replace it, or with --instance NAME for a second edge on this host",
        data.display(),
        identity.id
    );
    Err(Coded::error(Exit::Conflict, text))
}

pub(super) fn csr(common: &CommonFlags) -> Result<()> {
    let (_, paths, _) = common.resolve()?;
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
    common: &CommonFlags,
    answer: &Path,
    listen: Option<u16>,
    replace: bool,
) -> Result<()> {
    let target = Target::resolve(common, listen, replace)?;
    let enrolled = match answer.to_str() {
        Some("-") => state::parse_answer(read_stdin()?.as_bytes())?,
        _ => state::read_answer(answer)?,
    };
    let key = state::pending_key(&target.paths.data)?;
    target.save(key, &enrolled)
}

/// Where an enrolment is saved.
struct Target<'a> {
    common: &'a CommonFlags,
    instance: Instance,
    paths: Paths,
    /// The content of the configuration file.
    file: Options,
    listen: Option<u16>,
    replace: bool,
}

impl<'a> Target<'a> {
    fn resolve(common: &'a CommonFlags, listen: Option<u16>, replace: bool) -> Result<Self> {
        let (instance, paths, file) = common.resolve()?;
        Ok(Self { common, instance, paths, file, listen, replace })
    }

    fn save(self, key: PrivateKey, enrolled: &Enrolled) -> Result<()> {
        let data = &self.paths.data;
        let Enrolled { mesh, namespace, edge, .. } = enrolled;
        let new = SpiffeId::edge(mesh.clone(), namespace.clone(), edge.clone());
        if let Some(old) = state::existing(data)
            && old != new
            && !self.replace
        {
            let text = format!(
                "{} has the identity {old} and the new one is {new}: nothing was saved; use --replace \
                 with another token, or --instance NAME for a second edge on this host",
                data.display()
            );
            return Err(Coded::error(Exit::Conflict, text));
        }
        let identity = state::save_identity(data, key, enrolled)?;
        self.write_config()?;
        let running = runtime()?.block_on(local::status(&self.paths.socket)).ok();
        report(self.common, &self.paths, &identity, running);
        Ok(())
    }

    /// Writes the flags of the command line. The rest of the file stays as it is.
    fn write_config(&self) -> Result<()> {
        let mut file = self.file.clone();
        file.instance = Some(self.instance.name().to_owned());
        file.listen = self.listen.or(file.listen);
        if file == self.file {
            return Ok(());
        }
        let path = &self.paths.config;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        Ok(files::write_public(path, toml::to_string(&file)?.as_bytes())?)
    }
}

fn report(common: &CommonFlags, paths: &Paths, identity: &PeerIdentity, running: Option<Status>) {
    let days = cframe_pki::renewal::days_left(identity.not_after, cframe_pki::unix_now());
    println!("joined as {}, certificate for {days} days", identity.id);
    println!("  identity       {}", paths.data.display());
    println!("  configuration  {}", paths.config.display());
    match running {
        Some(status) if status.id == identity.id.to_string() => {
            return println!("next: nothing; pid {} uses it within seconds", status.pid);
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
    if let Some(dir) = &common.data_dir {
        run.push_str(&format!(" --data-dir {}", dir.display()));
    }
    if let Some(instance) = common.instance.as_deref().filter(|name| *name != DEFAULT) {
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
    fn a_token_is_not_used_up_where_an_identity_is_valid() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("edge");
        check_token_is_needed(&data).unwrap();
        let identity = enrolled_for(&data, "idc");
        let error = check_token_is_needed(&data).unwrap_err();
        assert_eq!(exit_code(&error), Exit::Conflict);
        let text = error.to_string();
        assert!(text.contains("/edge/idc") && text.contains("--replace"), "{text}");

        // An edge that was cut off needs a new certificate.
        Cut::new("its certificate was revoked", identity.serial, true).save(&data);
        check_token_is_needed(&data).unwrap();
    }
}

//! A service's process: its user, environment and capabilities.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::file::{Unit, words};

/// The command of a service's `ExecStart` or `ExecReload`; `extra` is added to its environment. Creates the service's
/// runtime directory.
pub(super) fn command(unit: &Unit, key: &str, extra: &[(&str, String)]) -> Result<Command> {
    let mut environment = environment(unit)?;
    environment.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let line = unit.last(key).with_context(|| format!("{} has no {key}", unit.name()))?;
    let words = expand(&line, &environment);
    let program = words.first().with_context(|| format!("{key} of {} is empty", unit.name()))?;
    ensure!(Path::new(program).is_file(), "{program}: not found (ExecStart of {})", unit.name());
    let user = unit.last("Service.User").map(|name| user(&name)).transpose()?;
    runtime_directory(unit, user.as_ref())?;

    // The shell sets the umask.
    let mut command = Command::new("sh");
    command.args(["-c", "umask \"$0\"; exec \"$@\""]);
    command.arg(unit.last("Service.UMask").unwrap_or_else(|| "0022".to_owned()));
    if let Some(user) = user.as_ref().filter(|user| user.uid != 0) {
        command.args(["setpriv", "--clear-groups"]);
        command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
        let given = capabilities(unit);
        command.arg(format!("--inh-caps=-all{given}")).arg(format!("--ambient-caps=-all{given}"));
        command.arg(format!("--bounding-set=-all{given}"));
    }
    command.args(words).env_clear().envs(&environment).current_dir("/");
    if let Some(user) = &user {
        command.env("HOME", &user.home);
    }
    Ok(command)
}

/// In the notation of `setpriv`: `,+net_admin`.
fn capabilities(unit: &Unit) -> String {
    let all = unit.all("Service.AmbientCapabilities");
    let names = all.flat_map(|line| words(&line)).map(|name| {
        let name = name.to_ascii_lowercase();
        format!(",+{}", name.strip_prefix("cap_").unwrap_or(&name))
    });
    names.collect()
}

fn environment(unit: &Unit) -> Result<BTreeMap<String, String>> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut all = BTreeMap::from([("PATH".to_owned(), path.to_owned())]);
    for line in unit.all("Service.Environment") {
        all.extend(words(&line).iter().filter_map(|word| assignment(word)));
    }
    for name in unit.all("Service.EnvironmentFile") {
        let (optional, path) = match name.strip_prefix('-') {
            Some(path) => (true, path),
            None => (false, name.as_str()),
        };
        match fs::read_to_string(path) {
            Err(error) if optional && error.kind() == ErrorKind::NotFound => {}
            text => {
                let text = text.with_context(|| format!("reading {path}"))?;
                let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
                all.extend(
                    lines
                        .filter_map(assignment)
                        .map(|(name, value)| (name, words(&value).join(" "))),
                );
            }
        }
    }
    Ok(all)
}

fn assignment(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((name.to_owned(), value.to_owned()))
}

/// The words of a command line with its variables expanded: the word `$NAME` becomes the words of the value, `${NAME}`
/// is replaced within its word.
fn expand(line: &str, environment: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| environment.get(name).cloned().unwrap_or_default();
    let mut out = Vec::new();
    for word in words(line) {
        match word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            Some(name) => out.extend(words(&value(name))),
            None => {
                let mut word = word;
                while let Some(start) = word.find("${") {
                    let Some(length) = word[start..].find('}') else { break };
                    let name = word[start + 2..start + length].to_owned();
                    word.replace_range(start..=start + length, &value(&name));
                }
                out.push(word);
            }
        }
    }
    out
}

#[derive(Debug)]
struct User {
    uid: u32,
    gid: u32,
    home: String,
}

/// Finds a user in `/etc/passwd`.
fn user(name: &str) -> Result<User> {
    let text = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let found = text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [known, _, uid, gid, _, home, _] = fields.as_slice() else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (*known == name).then(|| User { uid, gid, home: (*home).to_owned() })
    });
    found.with_context(|| format!("there is no user {name}"))
}

fn runtime_directory(unit: &Unit, user: Option<&User>) -> Result<()> {
    let Some(name) = unit.last("Service.RuntimeDirectory") else { return Ok(()) };
    let path = PathBuf::from("/run").join(name);
    let mode = unit.last("Service.RuntimeDirectoryMode").unwrap_or_else(|| "0755".to_owned());
    let mode = u32::from_str_radix(&mode, 8).with_context(|| format!("mode {mode}"))?;
    fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    if let Some(user) = user {
        chown(&path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("changing the owner of {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_by_systemd() {
        let environment = BTreeMap::from([("ARGS".to_owned(), "-a 'b c'".to_owned())]);
        assert_eq!(
            expand("/bin/x $ARGS $NONE pre${ARGS}", &environment),
            ["/bin/x", "-a", "b c", "pre-a 'b c'"]
        );
    }
}

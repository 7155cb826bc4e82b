//! Runs the system's network tools. Errors have the command, its input, and the package to install
//! if the tool is missing.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// Runs `command` to its end with `input` on its stdin, and returns its stdout.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(command, error))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A tool that fails early closes its stdin: its own error is reported first then.
    let fed = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("waiting for `{shown}`"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}\n{input}", message.trim());
    }
    fed.with_context(|| format!("writing to `{shown}`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The error for a `command` that could not be started; names the package if it is missing.
pub(crate) fn cannot_start(command: &Command, error: std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    if error.kind() == ErrorKind::NotFound
        && let Some(package) = package(&program)
    {
        return anyhow!("`{program}` is not installed: apt-get install {package}");
    }
    anyhow!(error).context(format!("starting `{}`", shown(command)))
}

fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn package(program: &str) -> Option<&'static str> {
    match program {
        "ip" | "tc" => Some("iproute2"),
        "nft" => Some("nftables"),
        "ethtool" => Some("ethtool"),
        "iperf3" => Some("iperf3"),
        "mount" => Some("mount"),
        "iptables-nft-restore"
        | "ip6tables-nft-restore"
        | "iptables-legacy-restore"
        | "ip6tables-legacy-restore" => Some("iptables"),
        "docker" | "dockerd" => Some("docker.io"),
        "unshare" => Some("util-linux"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = std::io::Error::from(ErrorKind::NotFound);
        let message = cannot_start(&Command::new("nft"), error).to_string();
        assert_eq!(message, "`nft` is not installed: apt-get install nftables");
    }

    #[test]
    fn a_failing_tool_is_quoted_with_its_input() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat >/dev/null; echo no such link >&2; exit 2"]);
        let message = run(&mut command, "link set x up\n").unwrap_err().to_string();
        assert!(message.contains("no such link"), "{message}");
        assert!(message.contains("link set x up"), "{message}");
    }
}

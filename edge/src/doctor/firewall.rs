//! Whether this host's firewall forwards packets, as far as it can be read.

use std::process::Command;

/// What happens to forwarded packets that no rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPolicy {
    Accept,
    /// The chains that drop them.
    Drop(Vec<String>),
    /// It cannot be read, for this reason.
    Unknown(String),
}

/// Runs `nft`, which also lists the chains of iptables-nft, and without it `iptables`.
pub(super) fn forward_policy() -> ForwardPolicy {
    match run("nft", &["-j", "list", "chains"]) {
        Ok(json) => parse_nft(&json),
        Err(nft) => match run("iptables", &["-S", "FORWARD"]) {
            Ok(text) => parse_iptables(&text),
            Err(_) => ForwardPolicy::Unknown(nft),
        },
    }
}

/// Whether firewalld runs. It applies its default zone to devices that are in no zone.
pub(super) fn firewalld() -> bool {
    run("firewall-cmd", &["--state"]).is_ok()
}

/// The device's zone in firewalld.
pub(super) fn zone(device: &str) -> Option<String> {
    let zone = run("firewall-cmd", &["--get-zone-of-interface", device]).ok()?;
    Some(zone.trim().to_owned())
}

pub(super) fn parse_nft(json: &str) -> ForwardPolicy {
    let parsed: serde_json::Value = match serde_json::from_str(json) {
        Ok(parsed) => parsed,
        Err(error) => return ForwardPolicy::Unknown(format!("nft: {error}")),
    };
    let entries = parsed["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let chains = entries.iter().map(|entry| &entry["chain"]);
    let dropping: Vec<String> = chains
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
        .map(|chain| {
            let text = |key: &str| chain[key].as_str().unwrap_or("?").to_owned();
            format!("{} {} {}", text("family"), text("table"), text("name"))
        })
        .collect();
    match dropping.is_empty() {
        true => ForwardPolicy::Accept,
        false => ForwardPolicy::Drop(dropping),
    }
}

pub(super) fn parse_iptables(text: &str) -> ForwardPolicy {
    match text.lines().any(|line| line.trim() == "-P FORWARD DROP") {
        true => ForwardPolicy::Drop(vec!["iptables FORWARD".to_owned()]),
        false => ForwardPolicy::Accept,
    }
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", text.lines().next().unwrap_or("failed")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_chain_that_drops_is_found_in_either_form() {
        let nft = r#"{"nftables":[{"metainfo":{}},
            {"chain":{"family":"ip","table":"filter","name":"FORWARD","hook":"forward","policy":"drop"}},
            {"chain":{"family":"ip","table":"filter","name":"INPUT","hook":"input","policy":"drop"}}]}"#;
        assert_eq!(parse_nft(nft), ForwardPolicy::Drop(vec!["ip filter FORWARD".to_owned()]));
        assert_eq!(parse_nft(r#"{"nftables":[]}"#), ForwardPolicy::Accept);
        let dropping = ForwardPolicy::Drop(vec!["iptables FORWARD".to_owned()]);
        assert_eq!(parse_iptables("-P FORWARD DROP\n-A FORWARD -j DOCKER\n"), dropping);
        assert_eq!(parse_iptables("-P FORWARD ACCEPT\n"), ForwardPolicy::Accept);
    }
}

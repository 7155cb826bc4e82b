//! Whether this host's firewall lets forwarded packets through, as far as that can be read.

use std::process::Command;

/// What forwarded packets meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPolicy {
    /// Nothing drops by default.
    Accept,
    /// These chains drop what none of their rules accepts.
    Drop(Vec<String>),
    /// It cannot be read here.
    Unknown(String),
}

/// Asks `nft`, which shows the chains of iptables-nft too, then `iptables`.
pub(super) fn forward_policy() -> ForwardPolicy {
    match output("nft", &["-j", "list", "chains"]) {
        Ok(json) => of_nft(&json),
        Err(nft) => match output("iptables", &["-S", "FORWARD"]) {
            Ok(text) => of_iptables(&text),
            Err(_) => ForwardPolicy::Unknown(nft),
        },
    }
}

/// Whether firewalld runs, which puts an unknown device into its default zone.
pub(super) fn firewalld() -> bool {
    output("firewall-cmd", &["--state"]).is_ok()
}

/// The zone that firewalld has a device in.
pub(super) fn zone(device: &str) -> Option<String> {
    let zone = output("firewall-cmd", &["--get-zone-of-interface", device]).ok()?;
    Some(zone.trim().to_owned())
}

pub(super) fn of_nft(json: &str) -> ForwardPolicy {
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

pub(super) fn of_iptables(text: &str) -> ForwardPolicy {
    match text.lines().any(|line| line.trim() == "-P FORWARD DROP") {
        true => ForwardPolicy::Drop(vec!["iptables FORWARD".to_owned()]),
        false => ForwardPolicy::Accept,
    }
}

fn output(program: &str, args: &[&str]) -> Result<String, String> {
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
        assert_eq!(of_nft(nft), ForwardPolicy::Drop(vec!["ip filter FORWARD".to_owned()]));
        assert_eq!(of_nft(r#"{"nftables":[]}"#), ForwardPolicy::Accept);
        let dropping = ForwardPolicy::Drop(vec!["iptables FORWARD".to_owned()]);
        assert_eq!(of_iptables("-P FORWARD DROP\n-A FORWARD -j DOCKER\n"), dropping);
        assert_eq!(of_iptables("-P FORWARD ACCEPT\n"), ForwardPolicy::Accept);
    }
}

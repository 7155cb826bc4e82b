use anyhow::Result;

use super::run_script;
use crate::host::Host;
use crate::process::Process;

/// A program that deletes what an edge makes as soon as it sees it, such as an agent that keeps a host as it was
/// configured. Dropping it ends it.
#[derive(Debug)]
pub struct Undoing {
    _process: Process,
}

/// What it does not tolerate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Policy rules, except those of the kernel.
    Rules,
    /// Routes in tables above 255, where the edge has its own.
    Routes,
    /// Tables of nft named `cframe-…`.
    Firewall,
}

impl Undoing {
    pub fn start(host: &Host, what: What) -> Result<Self> {
        let (name, script) = match what {
            What::Rules => ("undoing-rules", RULES),
            What::Routes => ("undoing-routes", ROUTES),
            What::Firewall => ("undoing-firewall", FIREWALL),
        };
        // What is there when it starts is no event.
        if what == What::Rules {
            run_script(host, FLUSH_RULES)?;
        }
        let mut shell = host.command("sh");
        shell.args(["-c", script]);
        let process = host.spawn(&format!("{name}-{}", host.name()), shell)?;
        Ok(Self { _process: process })
    }
}

const FLUSH_RULES: &str = r"
for family in -4 -6; do
    ip $family rule flush
    ip $family rule add pref 32766 lookup main
done
ip rule add pref 32767 lookup default
";

const RULES: &str = r#"
ip monitor rule | while read -r event; do
    case $event in
        Deleted* | *"lookup local"* | *"lookup main"* | *"lookup default"*) continue ;;
    esac
    pref=${event%%:*}
    ip rule del pref "$pref" 2>/dev/null
    ip -6 rule del pref "$pref" 2>/dev/null
done
"#;

const ROUTES: &str = r#"
ip monitor route | while read -r event; do
    case $event in
        Deleted*) continue ;;
        *" table "[0-9][0-9][0-9][0-9]*) ;;
        *) continue ;;
    esac
    table=${event##* table }
    table=${table%% *}
    ip route flush table "$table" 2>/dev/null
    ip -6 route flush table "$table" 2>/dev/null
done
"#;

const FIREWALL: &str = r#"
nft list tables | while read -r _ family name; do
    case $name in cframe-*) nft delete table "$family" "$name" ;; esac
done
nft monitor tables | while read -r verb _ family name; do
    case $verb,$name in add,cframe-*) nft delete table "$family" "$name" 2>/dev/null ;; esac
done
"#;

//! Rules of Kubernetes: kube-proxy's, and the policy rules of two network plugins.

use anyhow::Result;

use super::run_script;
use crate::host::Host;
use crate::tool;

/// Which of the two kinds of iptables makes rules. A host can have rules of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iptables {
    /// `iptables-nft`: rules in nft's tables.
    Nft,
    /// `iptables-legacy`: rules that `nft list ruleset` does not show.
    Legacy,
}

impl Iptables {
    /// `iptables-nft`, `ip6tables-legacy` and so on.
    pub fn command(self, v6: bool) -> &'static str {
        match (self, v6) {
            (Self::Nft, false) => "iptables-nft",
            (Self::Nft, true) => "ip6tables-nft",
            (Self::Legacy, false) => "iptables-legacy",
            (Self::Legacy, true) => "ip6tables-legacy",
        }
    }
}

/// As `iptables-save` shows it on a node of Kubernetes 1.28 with two services, of which one has no pods.
const KUBE_PROXY: &str = include_str!("kube-proxy.rules");

/// Loads the chains of kube-proxy, for both families.
pub fn kube_proxy(host: &Host, iptables: Iptables) -> Result<()> {
    for v6 in [false, true] {
        let mut rules = KUBE_PROXY.to_owned();
        if v6 {
            for (v4, v6) in [
                ("10.96.0.10/32", "fd00:10:96::a/128"),
                ("10.96.0.1/32", "fd00:10:96::1/128"),
                ("10.96.7.7/32", "fd00:10:96::7/128"),
                ("10.244.1.2/32", "fd00:10:244::2/128"),
                ("10.244.1.2:6443", "[fd00:10:244::2]:6443"),
                ("127.0.0.0/8", "::1/128"),
                ("10.244.0.0/16", "fd00:10:244::/64"),
            ] {
                rules = rules.replace(v4, v6);
            }
        }
        let restore = format!("{}-restore", iptables.command(v6));
        tool::run(host.command(restore).arg("--noflush"), &rules)?;
    }
    Ok(())
}

/// Rules and chains of Calico with WireGuard: it marks packets with bits of 0xffff0000, and its policy rule sends all
/// packets without its mark to its table first.
pub fn calico(host: &Host, iptables: Iptables) -> Result<()> {
    run_script(host, &CALICO.replace("IPTABLES", iptables.command(false)))?;
    Ok(())
}

const CALICO: &str = r"
ip link add wireguard.cali type bridge
ip link set wireguard.cali up
ip route add 192.168.199.0/24 dev wireguard.cali table 1
ip rule add pref 99 not fwmark 0x100000/0x100000 lookup 1
for chain in cali-PREROUTING cali-rpf-skip; do IPTABLES -t raw -N $chain; done
IPTABLES -t raw -A PREROUTING -j cali-PREROUTING
IPTABLES -t raw -A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
IPTABLES -t raw -A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000
IPTABLES -t raw -A cali-PREROUTING -m mark --mark 0x40000/0x40000 -j cali-rpf-skip
IPTABLES -t raw -A cali-PREROUTING -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP
IPTABLES -t filter -N cali-FORWARD
IPTABLES -t filter -I FORWARD -j cali-FORWARD
IPTABLES -t filter -A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
IPTABLES -t filter -A cali-FORWARD -i cali+ -j DROP
IPTABLES -t filter -A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
";

/// Policy rules of Cilium: it moves the rule of the local table from 0 to 100, and sends packets with marks of its proxy
/// to tables of its own.
pub fn cilium(host: &Host) -> Result<()> {
    run_script(host, CILIUM)?;
    Ok(())
}

const CILIUM: &str = r"
ip link add cilium_host type bridge
ip link set cilium_host up
ip route add local 0.0.0.0/0 dev lo table 2004
ip route add 10.244.0.0/24 dev cilium_host table 2005
for family in -4 -6; do
    ip $family rule add pref 9 fwmark 0x200/0xf00 lookup 2004
    ip $family rule add pref 10 fwmark 0xa00/0xf00 lookup 2005
    ip $family rule add pref 100 lookup local
    ip $family rule del pref 0
done
";

//! Policy routing of a second uplink, and a host after a reboot.

use anyhow::Result;

use super::run_script;
use crate::host::Host;

/// The rule and the table of a host with two uplinks, of which one is for the packets of `from`: `ip rule add from FROM
/// lookup 100 pref 1000`, and a default route in table 100. The other uplink is `eth0` too, by the same gateway.
pub fn second_default_route(host: &Host, from: &str) -> Result<()> {
    run_script(
        host,
        &format!(
            "family=-4; case {from} in *:*) family=-6;; esac\n\
         via=$(ip $family route show default | sed -n 's/^default via \\([^ ]*\\) dev eth0.*/\\1/p' | head -n1)\n\
         ip $family route add default via $via dev eth0 table 100\n\
         ip $family rule add from {from} lookup 100 pref 1000\n"
        ),
    )?;
    Ok(())
}

/// What a reboot removes, on a host whose programs have ended: TUN devices, docker's bridges, policy rules, tables, the
/// firewall and connections. `ip_forward` is what `/etc/sysctl.conf` sets at boot. Addresses and routes of `eth0` and
/// `eth1` are those that the host's network configuration makes again.
pub fn reboot(host: &Host, ip_forward: bool) -> Result<()> {
    let forwarding = i32::from(ip_forward);
    run_script(host, &format!("forwarding={forwarding}\n{REBOOT}"))?;
    Ok(())
}

/// `forwarding` resets that of each device too.
const REBOOT: &str = r"
for kind in tun dummy bridge veth; do
    ip -o link show type $kind | sed 's/^[0-9]*: \([^:@]*\).*/\1/' | while read -r device; do
        case $device in eth*) ;; *) ip link del dev $device || true ;; esac
    done
done
for family in -4 -6; do
    ip $family route show table all | sed -n 's/.* table \([0-9][0-9]*\).*/\1/p' | sort -u | while read -r table; do
        ip $family route flush table $table
    done
    ip $family rule show | grep -q '^0:.*lookup local' || ip $family rule add pref 0 lookup local
    ip $family rule flush
    ip $family rule add pref 32766 lookup main
    [ $family = -6 ] || ip rule add pref 32767 lookup default
done
nft flush ruleset
for command in iptables-legacy ip6tables-legacy; do
    command -v $command >/dev/null || continue
    for table in filter nat mangle raw; do
        $command -t $table -F && $command -t $table -X
    done
    for chain in INPUT FORWARD OUTPUT; do $command -P $chain ACCEPT; done
done
cd /proc/sys/net
for number in 0 $forwarding; do
    echo $number >ipv4/ip_forward
    echo $number >ipv6/conf/all/forwarding
done
for file in ipv6/conf/*/accept_ra; do echo 0 >$file; done
";

//! Faults of the gateway's routing, firewall and devices.

use cframe_testbed::neighbours::{self, Undoing, What};

use super::super::Bed;
use super::Fault;

const BLOCKED: &[&str] = &["forward-blocked"];

/// The host starts again, with the unit that runs before its network, and without an edge.
fn reboot(bed: &mut Bed) {
    bed.hk.kill9().unwrap();
    // While it boots, it forwards nothing at first.
    bed.run("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
    neighbours::reboot(bed.hk.host(), false).unwrap();
    bed.hk.run(&["guard"]).unwrap().success().unwrap();
    bed.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
}

fn start_undoing(bed: &mut Bed, what: What) {
    bed.undoing = Some(Undoing::start(bed.hk.host(), what).unwrap());
}

pub(super) const FAULTS: &[Fault] = &[
    Fault::recovers("A11 MTU of the device", "ip link set cframe0 mtu 1200"),
    Fault::script(
        "B1 a rule for a second uplink",
        &["route-bypassed"],
        "ip route add default via 203.0.113.1 dev eth0 table 100\n\
         ip rule add from 172.30.0.0/16 lookup 100 pref 1000",
        "while ip rule del lookup 100 2>/dev/null; do :; done\nip route flush table 100",
    ),
    Fault::script(
        "B1 a rule for packets of the LAN's device",
        &["route-bypassed"],
        "ip route add default via 203.0.113.1 dev eth0 table 101\n\
         ip rule add iif eth1 lookup 101 pref 900",
        "while ip rule del lookup 101 2>/dev/null; do :; done\nip route flush table 101",
    ),
    Fault::script(
        "B1 a mark that another program sets, and a rule for it",
        &["route-bypassed"],
        "ip route add default via 203.0.113.1 dev eth0 table 102\n\
         ip rule add fwmark 0x77 lookup 102 pref 800\n\
         iptables-nft -t mangle -A PREROUTING -i eth1 -j MARK --set-mark 0x77",
        "iptables-nft -t mangle -F PREROUTING\n\
         while ip rule del lookup 102 2>/dev/null; do :; done\nip route flush table 102",
    ),
    Fault::script(
        "B1 a rule for a table that refuses",
        &["route-bypassed"],
        "ip route add blackhole default table 103\nip rule add from 172.30.0.0/16 lookup 103 pref 700",
        "while ip rule del lookup 103 2>/dev/null; do :; done\nip route flush table 103",
    ),
    Fault::script(
        "B1 a rule for packets from the tunnel",
        &["route-bypassed"],
        "ip route add default via 203.0.113.1 dev eth0 table 104\n\
         ip rule add iif cframe0 lookup 104 pref 950",
        "while ip rule del lookup 104 2>/dev/null; do :; done\nip route flush table 104\n\
         while ip rule del iif cframe0 2>/dev/null; do :; done",
    ),
    Fault::script(
        "B1 a rule behind the edge's own, for packets of another site",
        &["route-bypassed"],
        "ip route add default via 203.0.113.1 dev eth0 table 105\n\
         ip rule add from 10.0.0.0/8 lookup 105 pref 6000",
        "while ip rule del lookup 105 2>/dev/null; do :; done\nip route flush table 105\n\
         while ip rule del iif cframe0 2>/dev/null; do :; done",
    ),
    Fault::script(
        "B1 a rule that refuses packets from the tunnel",
        &["route-bypassed"],
        "ip rule add iif cframe0 prohibit pref 960",
        "while ip rule del iif cframe0 2>/dev/null; do :; done",
    ),
    Fault::script(
        "B2 REJECT at the end of FORWARD",
        BLOCKED,
        "iptables-nft -A FORWARD -j REJECT",
        "iptables-nft -F FORWARD",
    ),
    Fault::script(
        "B2 a policy of iptables-legacy",
        BLOCKED,
        "iptables-legacy -P FORWARD DROP",
        "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F FORWARD; iptables -F FORWARD",
    ),
    Fault::script(
        "B2 a drop in another table, toward the tunnel only",
        BLOCKED,
        "nft add table inet f2\n\
         nft add chain inet f2 forwarded '{ type filter hook forward priority 20; }'\n\
         nft add rule inet f2 forwarded oifname cframe0 drop",
        "nft delete table inet f2",
    )
    .without_command(),
    Fault::script(
        "B2 a drop before routing, from the tunnel only",
        BLOCKED,
        "nft add table ip f3\n\
         nft add chain ip f3 pre '{ type filter hook prerouting priority -310; }'\n\
         nft add rule ip f3 pre iifname cframe0 drop",
        "nft delete table ip f3",
    )
    .without_command(),
    Fault::script(
        "B2 a drop at the device, before the hooks of IP",
        BLOCKED,
        "nft 'add table netdev f4; \
         add chain netdev f4 arrival { type filter hook ingress device eth1 priority 0; }; \
         add rule netdev f4 arrival ip daddr 10.60.6.0/24 drop'",
        "nft delete table netdev f4",
    )
    .without_command(),
    Fault::script(
        "B2 policies of iptables-legacy and of nft",
        BLOCKED,
        "iptables-legacy -P FORWARD DROP; iptables-nft -P FORWARD DROP",
        "for tool in iptables-legacy iptables-nft; do $tool -P FORWARD ACCEPT; $tool -F FORWARD; done",
    ),
    Fault::script(
        "B2 only ping passes",
        BLOCKED,
        "iptables-nft -A FORWARD -p icmp -j ACCEPT; iptables-nft -A FORWARD -j DROP",
        "iptables-nft -F FORWARD",
    ),
    Fault::script(
        "B2 UDP alone",
        BLOCKED,
        "iptables-nft -A FORWARD -p udp -j DROP",
        "iptables-nft -F FORWARD",
    ),
    Fault::script(
        "B2 IPv6 only",
        BLOCKED,
        "ip6tables-nft -A FORWARD -j DROP",
        "ip6tables-nft -F FORWARD",
    ),
    Fault::script(
        "B2 the tunnel in no zone of firewalld",
        BLOCKED,
        "true",
        "nft delete table inet firewalld",
    )
    .with(
        |bed| neighbours::firewalld(bed.hk.host(), &[]).unwrap(),
        |bed| {
            bed.run("nft delete table inet firewalld");
        },
    )
    .without_command(),
    Fault::script(
        "B3 the site is masqueraded",
        &["masqueraded"],
        "iptables -t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE",
        "iptables -t nat -F POSTROUTING",
    ),
    Fault::script(
        "B3 everything is masqueraded",
        &["masqueraded"],
        "iptables -t nat -A POSTROUTING -j MASQUERADE",
        "iptables -t nat -F POSTROUTING",
    ),
    Fault::recovers("B4 nft flush ruleset", "nft flush ruleset"),
    Fault::script(
        "B6 a docker network with another site's prefix",
        &["overlap-hides"],
        "ip link add br-f type bridge\nip addr add 172.18.0.1/16 dev br-f\nip link set br-f up",
        "ip link del br-f 2>/dev/null || true",
    )
    .without_command(),
    Fault::script(
        "B6 an IPv6 network with another site's prefix",
        &["overlap-hides"],
        "ip link add br-g type bridge\nip link set br-g up\nip addr add fd00:18::1/64 dev br-g nodad",
        "ip link del br-g 2>/dev/null || true",
    )
    .without_command(),
    Fault::recovers(
        "B9 forwarding of the LAN's device",
        "sysctl -qw net.ipv4.conf.eth1.forwarding=0",
    ),
    Fault::recovers("B9 forwarding of the tunnel", "sysctl -qw net.ipv4.conf.cframe0.forwarding=0"),
    Fault::recovers("B9 forwarding of the host", "sysctl -qw net.ipv4.ip_forward=0"),
    Fault::recovers("B13 rules flushed once", "ip rule flush; ip rule add pref 32766 lookup main"),
    Fault::code("B12 a reboot", &["edge-offline", "link-down"], reboot, |bed| {
        bed.hk.start().unwrap();
    }),
    Fault::code(
        "B12 a reboot, after which the edge cannot start",
        &["edge-offline", "link-down"],
        |bed| {
            bed.run(&format!("mv {0}/key.pem {0}/key.away", bed.hk.dir().display()));
            reboot(bed);
            let _ = bed.hk.start();
        },
        |bed| {
            bed.run(&format!("mv {0}/key.away {0}/key.pem", bed.hk.dir().display()));
            bed.hk.start().unwrap();
        },
    ),
    Fault::code(
        "B13 a program that undoes rules",
        &["route-bypassed"],
        |bed| start_undoing(bed, What::Rules),
        |bed| bed.undoing = None,
    ),
    Fault::script(
        "B15 a drop in the table raw, for one address",
        BLOCKED,
        "iptables -t raw -A PREROUTING -d 172.30.0.10 ! -i eth1 -j DROP",
        "iptables -t raw -F PREROUTING",
    )
    .without_command(),
    Fault::script(
        "B15 a drop in a chain of docker under policy ACCEPT",
        BLOCKED,
        "iptables -N DOCKER-USER\niptables -I FORWARD -j DOCKER-USER\niptables -A DOCKER-USER ! -i eth0 -o cframe0 -j DROP",
        "iptables -F FORWARD; iptables -F DOCKER-USER; iptables -X DOCKER-USER",
    ),
];

//! The faults of which each is made alone.

use super::{Bed, side_by_side};

/// A fault with its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// One of these is reported.
    pub(super) codes: &'static [&'static str],
    pub(super) seen: Seen,
    /// The edge that the problem names.
    pub(super) edge: &'static str,
    /// Whether the cause is on the gateway, so that its `doctor` must find it.
    pub(super) at_gateway: bool,
    /// Whether its fix must be a command. A fix that is a command is pasted in any case.
    pub(super) has_command: bool,
    make: Make,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Packets are lost.
    Lost,
    /// It is an error, but packets between the sites that are tried pass.
    OnlyReported,
    /// The edge ends it by itself.
    Recovers,
}

/// How a fault is made and ended.
#[derive(Clone, Copy, Debug)]
enum Make {
    /// By scripts on the gateway.
    Script(&'static str, &'static str),
    Code(fn(&mut Bed), fn(&mut Bed)),
}

impl Fault {
    const fn script(
        name: &'static str,
        code: &'static [&'static str],
        apply: &'static str,
        undo: &'static str,
    ) -> Self {
        Self {
            name,
            codes: code,
            seen: Seen::Lost,
            edge: "aws-hk",
            at_gateway: true,
            has_command: true,
            make: Make::Script(apply, undo),
        }
    }

    const fn code(
        name: &'static str,
        code: &'static [&'static str],
        apply: fn(&mut Bed),
        undo: fn(&mut Bed),
    ) -> Self {
        let make = Make::Code(apply, undo);
        Self {
            name,
            codes: code,
            seen: Seen::Lost,
            edge: "aws-hk",
            at_gateway: false,
            has_command: false,
            make,
        }
    }

    const fn recovers(name: &'static str, apply: &'static str) -> Self {
        Self { seen: Seen::Recovers, has_command: false, ..Self::script(name, &[], apply, "true") }
    }

    const fn without_command(self) -> Self {
        Self { has_command: false, ..self }
    }

    pub(super) fn unhealthy(&self) -> bool {
        self.seen != Seen::Recovers
    }

    pub(super) fn apply(&self, bed: &mut Bed) {
        match self.make {
            Make::Script(apply, _) => bed.run(apply),
            Make::Code(apply, _) => apply(bed),
        }
    }

    pub(super) fn undo(&self, bed: &mut Bed) {
        match self.make {
            // In a combination, some of it may be gone.
            Make::Script(_, undo) => bed.run(&format!("set +e\n{undo}\ntrue")),
            Make::Code(_, undo) => undo(bed),
        }
    }
}

const BLOCKED: &[&str] = &["forward-blocked"];

/// Scripts end what they made and what a fix has added: fixes insert rules in front.
pub(super) const FAULTS: &[Fault] = &[
    Fault::code(
        "A1 UDP dropped on the way",
        &["link-down", "edge-offline"],
        |bed| bed.hk.site().uplink().block_udp(true).unwrap(),
        |bed| bed.hk.site().uplink().block_udp(false).unwrap(),
    ),
    Fault::code(
        "A1 uplink cut",
        &["link-down", "edge-offline"],
        |bed| bed.hk.site().uplink().cut(true).unwrap(),
        |bed| bed.hk.site().uplink().cut(false).unwrap(),
    ),
    Fault::code(
        "A1 two of three cannot reach each other",
        &["link-down"],
        |bed| bed.hk.site().uplink().cut_from(bed.sz.site().uplink(), true).unwrap(),
        |bed| bed.hk.site().uplink().cut_from(bed.sz.site().uplink(), false).unwrap(),
    ),
    Fault::script(
        "A1 UDP dropped at the gateway",
        &["port-blocked", "link-down"],
        "nft add table inet f1\n\
         nft add chain inet f1 in '{ type filter hook input priority 0; }'\n\
         nft add rule inet f1 in udp dport 58423 drop",
        "nft delete table inet f1",
    )
    .without_command(),
    Fault::code(
        "A6 an edge has not joined",
        &["not-joined"],
        |bed| {
            let add = "edge add late -n prod --cidr 10.99.0.0/24 --endpoint 203.0.113.99:58423";
            bed.lab.deployment.ctl_ok(&add.split(' ').collect::<Vec<_>>()).unwrap();
        },
        |bed| {
            bed.lab.deployment.ctl_ok(&["edge", "del", "late", "-n", "prod", "--yes"]).unwrap();
        },
    )
    .about("late"),
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
        |bed| cframe_testbed::neighbours::firewalld(bed.hk.host(), &[]).unwrap(),
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
    Fault::recovers(
        "B9 forwarding of the LAN's device",
        "sysctl -qw net.ipv4.conf.eth1.forwarding=0",
    ),
    Fault::recovers("B9 forwarding of the tunnel", "sysctl -qw net.ipv4.conf.cframe0.forwarding=0"),
    Fault::recovers("B9 forwarding of the host", "sysctl -qw net.ipv4.ip_forward=0"),
    Fault::recovers("B13 rules flushed once", "ip rule flush; ip rule add pref 32766 lookup main"),
    Fault::code(
        "B12 the edge does not run",
        &["edge-offline", "link-down"],
        |bed| bed.hk.kill9().unwrap(),
        |bed| bed.hk.start().unwrap(),
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
    Fault::script(
        "the default route is gone",
        &["link-down", "edge-offline"],
        "ip route del default",
        "ip route add default via 203.0.113.1 dev eth0",
    )
    .without_command(),
];

impl Fault {
    /// Another edge than the gateway is named, and packets between the gateways pass.
    const fn about(self, edge: &'static str) -> Self {
        Self { edge, seen: Seen::OnlyReported, ..self }
    }

    const fn with(self, apply: fn(&mut Bed), undo: fn(&mut Bed)) -> Self {
        Self { make: Make::Code(apply, undo), ..self }
    }
}

/// Half of the faults each, in labs side by side.
#[test]
fn each_fault_is_named_within_ten_seconds_and_its_end_too() {
    // For trying out: the faults whose name contains this.
    let only = std::env::var("CFRAME_TEST_FAULT").unwrap_or_default();
    let faults: Vec<&Fault> = FAULTS.iter().filter(|fault| fault.name.contains(&only)).collect();
    side_by_side("faults", &faults, |bed, fault| bed.try_fault(fault));
}

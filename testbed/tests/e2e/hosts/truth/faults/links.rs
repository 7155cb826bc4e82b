//! Faults of links and of the path between edges.

use super::Fault;

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
    Fault::script(
        "the default route is gone",
        &["link-down", "edge-offline"],
        "ip route del default",
        "ip route add default via 203.0.113.1 dev eth0",
    )
    .without_command(),
];

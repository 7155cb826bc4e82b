//! Faults of links and of the path between edges.

use cframe_testbed::{Wan, WanPath};

use super::{Bed, Fault};

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
    // Keep-alives and small packets pass, so that the link stays up.
    Fault::code(
        "A12 a path becomes too narrow for full packets",
        &["link-too-narrow"],
        |bed| path(bed).set(&WanPath { mtu: Some(1000), ..WanPath::default() }).unwrap(),
        |bed| path(bed).clear().unwrap(),
    )
    .about("aws-hk"),
    Fault::code(
        "A12 a path loses two fifths of the packets in one direction",
        &["link-lossy"],
        |bed| path(bed).set_one_way(&WanPath { loss: 40.0, ..WanPath::default() }).unwrap(),
        |bed| path(bed).clear().unwrap(),
    )
    .about("aws-hk"),
    Fault::code(
        "A12 a firewall drops the flow of one link, in one direction",
        &["link-down"],
        |bed| {
            drop_on_the_way(
                bed,
                "ip saddr 203.0.113.7 ip daddr 192.0.2.7 udp sport 58423 udp dport 58423 drop",
            )
        },
        |bed| drop_on_the_way(bed, ""),
    ),
];

/// Between the gateway and `aliyun-sz`.
fn path(bed: &Bed) -> Wan {
    bed.hk.site().uplink().wan_to(bed.sz.site().uplink())
}

fn drop_on_the_way(bed: &Bed, rule: &str) {
    let chain = format!("chain f {{\ntype filter hook forward priority -5\n{rule}\n}}");
    let table = format!("table inet f4\ndelete table inet f4\ntable inet f4 {{\n{chain}\n}}\n");
    bed.lab.net.router().nft(&table).unwrap();
}

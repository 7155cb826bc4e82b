//! A gateway whose connection table is full.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;

use cframe_testbed::Host;
use socket2::{Domain, Protocol, Socket, Type};

use super::wait_text;
use crate::hosts::support::wait_healthy;
use crate::lab::{HK, SECOND, TIMEOUT, TestLab, figure, shared};

/// What `/proc/sys/net/netfilter` says of a host's table.
fn number(host: &Host, name: &str) -> u32 {
    let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
    let text = host.enter(|| std::fs::read_to_string(&path)).unwrap().unwrap();
    text.trim().parse().unwrap()
}

/// One packet of each of `count` flows over the loopback device, from the side that opens them or as answers.
fn send_flows(host: &Host, count: u32, answers: bool) {
    host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        for flow in 0..count {
            let port = u16::try_from(1024 + flow % 60_000).unwrap();
            let client = (Ipv4Addr::new(127, 1, 0, u8::try_from(1 + flow / 60_000).unwrap()), port);
            let server = (Ipv4Addr::new(127, 2, 0, 1), 7);
            let (from, to) = if answers { (server, client) } else { (client, server) };
            let packet = datagram(from, to);
            // A full queue of the device loses one; the table needs not to the last entry.
            let _ = socket.send_to(&packet, &SocketAddrV4::new(to.0, 0).into());
        }
    })
    .unwrap();
}

/// An IPv4 packet with an empty UDP datagram. The kernel fills in the header's checksum.
fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> [u8; 28] {
    let mut packet = [0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&from.0.octets());
    packet[16..20].copy_from_slice(&to.0.octets());
    packet[20..22].copy_from_slice(&from.1.to_be_bytes());
    packet[22..24].copy_from_slice(&to.1.to_be_bytes());
    packet[25] = 8;
    packet
}

#[test]
fn a_full_connection_table_is_named_while_it_keeps_a_link_from_coming_up() {
    let lab = TestLab::start("table", shared());
    let hk = lab.edge(&lab.sites.aws_hk, &[HK]);
    let host = hk.host();
    // Tracks connections, and drops the flows of this test where they arrive.
    let rules = "table inet t {\nchain i {\ntype filter hook input priority 0\n\
                 ct state new\niif lo udp dport 7 drop\niif lo udp sport 7 drop\n}\n}\n";
    host.netns().nft(rules).unwrap();
    // The limit is the whole machine's, and is not changed: entries are deleted in the end.
    let max = number(host, "max");
    // The kernel drops entries for new ones until they have passed both ways for two seconds.
    send_flows(host, max, false);
    send_flows(host, max, true);
    thread::sleep(SECOND * 2);
    send_flows(host, max, false);
    send_flows(host, 60_000, false);
    figure("connections", format_args!("{} of {max}", number(host, "count")));
    let _sz = lab.edge(&lab.sites.aliyun_sz, &[]);
    let problem = wait_text(&lab, "connection-table-full", "prod/aws-hk", &[&max.to_string()]);
    let fix = format!("sysctl -w net.netfilter.nf_conntrack_max={}", 4 * max);
    assert_eq!(problem["fix"], fix.as_str());
    hk.site().forget_connections().unwrap();
    wait_healthy(&lab.deployment, TIMEOUT);
}

//! WAN emulation between real namespaces. Fails without root or user namespaces.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

use cframe_testbed::iperf::Iperf;
use cframe_testbed::lab::{self, Wan};
use cframe_testbed::{
    Host, Lab, Nat, PathMtu, PingStats, ThreeSites, WanPath, privilege, wait_until,
};

const TIMEOUT: Duration = Duration::from_secs(5);
const MS: Duration = Duration::from_millis(1);

/// A lab, and the path from `aliyun-sz` to `aws-hk` in it.
fn two_sites(name: &str, nat: Option<Nat>) -> (Lab, ThreeSites, Wan) {
    privilege::ensure().unwrap();
    let mut lab = Lab::new(name).unwrap();
    let three = ThreeSites::build(&mut lab, nat).unwrap();
    let wan = three.aliyun_sz.uplink().wan_to(three.aws_hk.uplink());
    (lab, three, wan)
}

fn delayed(delay: Duration) -> WanPath {
    WanPath { delay, ..WanPath::default() }
}

fn addresses(three: &ThreeSites) -> [IpAddr; 2] {
    let uplink = three.aws_hk.uplink();
    [uplink.v4().unwrap().into(), uplink.v6().unwrap().into()]
}

/// Sends a ping each millisecond and waits 300 ms for the last reply.
fn pings(from: &Host, to: IpAddr, count: u64) -> PingStats {
    from.ping(to).interval(MS).count(count).linger(300 * MS).run_to_end().unwrap()
}

fn fastest(stats: &PingStats) -> Duration {
    stats.probes.iter().filter_map(|probe| probe.rtt).min().unwrap()
}

#[test]
fn a_delay_applies_to_both_directions_of_one_pair_until_it_is_cleared() {
    let (_lab, three, wan) = two_sites("delay", None);
    let from = three.aliyun_sz.edge();
    wan.set(&delayed(40 * MS)).unwrap();
    for to in addresses(&three) {
        let stats = pings(from, to, 20);
        assert!(stats.lost.is_empty() && fastest(&stats) >= 80 * MS, "{stats}");
        let back = pings(three.aws_hk.edge(), three.aliyun_sz.uplink().v4().unwrap().into(), 20);
        assert!(back.lost.is_empty() && fastest(&back) >= 80 * MS, "{back}");
    }
    let other = pings(from, three.idc.uplink().v4().unwrap().into(), 20);
    assert!(fastest(&other) < 40 * MS, "{other}");
    wan.set_one_way(&delayed(Duration::ZERO)).unwrap();
    for to in addresses(&three) {
        let stats = pings(from, to, 20);
        assert!(fastest(&stats) >= 40 * MS && fastest(&stats) < 80 * MS, "{stats}");
    }
    wan.clear().unwrap();
    for to in addresses(&three) {
        let stats = pings(from, to, 20);
        assert!(stats.lost.is_empty() && fastest(&stats) < 40 * MS, "{stats}");
    }
    wan.status().unwrap_err();
}

#[test]
fn the_same_seed_loses_the_same_packets_at_the_configured_rate() {
    let (_lab, three, wan) = two_sites("seed", None);
    let [to, _] = addresses(&three);
    let lost = |seed| {
        wan.set_one_way(&WanPath { loss: 10.0, seed, ..WanPath::default() }).unwrap();
        let stats = pings(three.aliyun_sz.edge(), to, 500);
        let counters = wan.status().unwrap().counters;
        assert_eq!((counters.offered, counters.lost), (500, stats.lost.len() as u64));
        stats.lost
    };
    let first = lost(7);
    // Within four standard deviations of 50.
    assert!((23..77).contains(&first.len()), "{first:?}");
    assert_eq!(first, lost(7));
    assert_ne!(first, lost(8));
}

#[test]
fn reordered_and_duplicated_packets_arrive_late_and_twice() {
    let (_lab, three, wan) = two_sites("reorder", None);
    let path = WanPath { reorder: 20.0, reorder_by: 5 * MS, duplicate: 5.0, ..delayed(MS) };
    wan.set_one_way(&path).unwrap();
    let stats = pings(three.aliyun_sz.edge(), addresses(&three)[0], 300);
    let counters = wan.status().unwrap().counters;
    assert!(stats.lost.is_empty(), "{stats}");
    // The pinger stops at the last reply, so it may miss a copy of that.
    assert!(stats.duplicates > 0 && stats.duplicates <= counters.duplicated, "{counters}");
    let late = stats.probes.iter().filter(|probe| probe.rtt.unwrap() >= 6 * MS).count() as u64;
    // The copy of a late packet is not late.
    assert!(late > 0 && late + counters.duplicated >= counters.reordered, "{late}: {counters}");
    assert!(counters.reordered > counters.duplicated, "{counters}");
}

#[test]
fn gso_batches_arrive_unchanged_with_their_ecn_bits() {
    let (_lab, three, wan) = two_sites("train", None);
    wan.set(&delayed(5 * MS)).unwrap();
    for to in addresses(&three) {
        let unspecified: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u8; 16].into() };
        let client = udp(three.aliyun_sz.edge(), SocketAddr::new(unspecified, 5000));
        let server = udp(three.aws_hk.edge(), SocketAddr::new(to, 4000));
        let seen = three.aws_hk.edge().capture("eth0").unwrap();
        let sent: Vec<u8> = (0..40 * 1200 + 77_u32).map(|byte| ((byte * 31) >> 3) as u8).collect();
        let state = quinn_udp::UdpSocketState::new((&client).into()).unwrap();
        for train in sent.chunks(1200 * state.max_gso_segments().clamp(1, 20)) {
            let transmit = quinn_udp::Transmit {
                destination: SocketAddr::new(to, 4000),
                ecn: Some(quinn_udp::EcnCodepoint::Ect0),
                contents: train,
                segment_size: Some(1200),
                src_ip: None,
            };
            state.send((&client).into(), &transmit).unwrap();
        }
        let mut arrived = Vec::new();
        let mut buffer = [0; 2000];
        while arrived.len() < sent.len() {
            let (len, _) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(len, 1200.min(sent.len() - arrived.len()));
            arrived.extend_from_slice(&buffer[..len]);
        }
        assert!(arrived == sent);
        let captured = seen.stop().unwrap();
        let marks: BTreeSet<u8> =
            captured.packets().iter().filter_map(|packet| ecn_of_udp(packet.ip()?)).collect();
        assert_eq!(marks, BTreeSet::from([0b10]));
    }
}

/// The ECN field; `None` if the packet is not UDP.
fn ecn_of_udp(ip: &[u8]) -> Option<u8> {
    match ip.first()? >> 4 {
        4 if ip[9] == 17 => Some(ip[1] & 0b11),
        6 if ip[6] == 17 => Some(ip[1] >> 4 & 0b11),
        _ => None,
    }
}

fn udp(host: &Host, at: SocketAddr) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

#[test]
fn an_mtu_can_change_during_a_flow_and_be_silent_or_answer() {
    let (_lab, three, wan) = two_sites("wanmtu", None);
    let from = three.aliyun_sz.edge();
    let passes = |to: IpAddr, size| {
        let ping = from.ping(to).packet_size(size).dont_fragment().count(3).interval(MS);
        ping.linger(300 * MS).run_to_end().unwrap().received == 3
    };
    for to in addresses(&three) {
        for icmp in [false, true] {
            wan.set_one_way(&delayed(MS)).unwrap();
            assert!(passes(to, 1500));
            let seen = from.capture("eth0").unwrap();
            wan.set_one_way(&WanPath { mtu: Some(1300), icmp, ..delayed(MS) }).unwrap();
            assert!(!passes(to, 1301));
            assert!(passes(to, 1300));
            assert_eq!(wan.status().unwrap().counters.too_large, 3);
            let captured = seen.stop().unwrap();
            let errors = captured.packets().iter().filter(|packet| packet.is_too_big_error());
            assert_eq!(errors.count(), if icmp { 3 } else { 0 }, "{to}");
        }
    }
    // TCP adapts to the ICMP errors, which are about the segments of its super-packets.
    let throughput = Iperf::tcp(1).run(from, three.aws_hk.edge(), addresses(&three)[0]).unwrap();
    println!("TCP over 1300 bytes and 1 ms: {:.0} Mbit/s", throughput.mbit);
    assert!(throughput.mbit > 20.0);
}

#[test]
fn a_bottleneck_has_its_rate_and_drops_packets_when_its_queue_is_full() {
    let (_lab, three, wan) = two_sites("wanrate", None);
    let path = WanPath { rate: Some(50_000_000), queue: 20 * MS, ..delayed(2 * MS) };
    wan.set(&path).unwrap();
    let (from, to) = (three.aliyun_sz.edge(), three.aws_hk.edge());
    let pinger = from.ping(addresses(&three)[0]).interval(20 * MS).start().unwrap();
    let udp = Iperf::udp(1, 100).run(from, to, addresses(&three)[0]).unwrap();
    let stats = pinger.stop();
    let counters = wan.status().unwrap().counters;
    println!("{:.1} Mbit/s of 50; {stats}; {counters}", udp.mbit);
    assert!((40.0..51.0).contains(&udp.mbit));
    assert!(counters.queue_full > 0 && stats.max_rtt.unwrap() > 20 * MS, "{stats}");
}

#[test]
fn conditions_of_links_and_a_changed_address_apply_with_wan_emulation() {
    let (_lab, three, wan) = two_sites("links", Some(Nat::masquerade()));
    let (from, hk) = (three.aliyun_sz.edge(), three.aws_hk.uplink());
    wan.set(&delayed(20 * MS)).unwrap();
    let reaches = |to: IpAddr| {
        let stats = pings(from, to, 3);
        assert!(stats.received == 0 || fastest(&stats) >= 40 * MS, "{stats}");
        stats.received == 3
    };
    assert!(addresses(&three).into_iter().all(reaches));
    hk.move_address("203.0.114.5/24").unwrap();
    assert!(addresses(&three).into_iter().all(reaches));
    hk.cut_from(three.aliyun_sz.uplink(), true).unwrap();
    assert!(!addresses(&three).into_iter().any(reaches));
    hk.cut_from(three.aliyun_sz.uplink(), false).unwrap();
    hk.set_path_mtu(PathMtu::silent(1300)).unwrap();
    let large = from.ping(addresses(&three)[0]).packet_size(1400).dont_fragment();
    assert_eq!(large.count(3).linger(200 * MS).run_to_end().unwrap().received, 0);
    assert!(addresses(&three).into_iter().all(reaches));
}

#[test]
fn invalid_conditions_are_refused_with_their_value() {
    let (_lab, three, wan) = two_sites("refused", None);
    let error = wan.set(&WanPath { loss: 101.0, ..WanPath::default() }).unwrap_err();
    assert!(format!("{error:#}").contains("loss of 101%"), "{error:#}");
    let uplink = three.idc.uplink();
    let error = uplink.wan_to(uplink).set(&delayed(MS)).unwrap_err();
    assert!(format!("{error:#}").contains("not from idc to itself"), "{error:#}");
}

#[test]
fn the_command_line_emulates_a_wan_in_another_processs_lab_until_the_lab_ends() {
    let (lab, three, _) = two_sites("byhand", None);
    let id = lab.id();
    let wan = |line: &str| {
        let mut testbed = Command::new(env!("CARGO_BIN_EXE_testbed"));
        testbed.arg("wan").args(line.split(' ')).args(["--lab", &id]).output().unwrap()
    };
    let set = wan("set aliyun-sz aws-hk --delay 30ms --loss 0%");
    assert!(set.status.success(), "{}", stderr(&set));
    let stats = pings(three.aliyun_sz.edge(), addresses(&three)[0], 10);
    assert!(stats.lost.is_empty() && fastest(&stats) >= 60 * MS, "{stats}");
    let shown = wan("show -o json");
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let delivered: Vec<_> =
        shown.as_array().unwrap().iter().map(|way| &way["counters"]["delivered"]).collect();
    assert_eq!(delivered, [10, 10]);
    assert_eq!(shown[0]["path"]["delay_ms"], 30.0);
    assert!(stderr(&wan("set aliyun-sz aws-kh --delay 30ms")).contains("did you mean aws-hk?"));
    assert!(stderr(&wan("clear aliyun-sz idc")).contains("testbed wan show"));
    assert!(wan("clear aws-hk aliyun-sz").status.success());
    assert!(fastest(&pings(three.aliyun_sz.edge(), addresses(&three)[0], 10)) < 60 * MS);

    let emulator = format!("wan\0run\0{}\0", lab.dir().display());
    assert!(runs(&emulator));
    lab.remove().unwrap();
    wait_until(TIMEOUT, || !runs(&emulator)).unwrap();
    assert!(lab::list().unwrap().iter().all(|lab| lab.id != id));
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether there is a process whose command line ends with `end`.
fn runs(end: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.ends_with(end.as_bytes()))
    })
}

//! The lab itself, on which other tests rely. Fails without root or user namespaces.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use cframe_testbed::iperf::Iperf;
use cframe_testbed::{
    Host, Lab, Nat, Packet, PathMtu, PingStats, Site, ThreeSites, http, privilege, wait_until,
};

const TIMEOUT: Duration = Duration::from_secs(5);

fn lab(name: &str) -> Lab {
    privilege::ensure().unwrap();
    Lab::new(name).unwrap()
}

fn three_sites(name: &str, nat: Option<Nat>) -> (Lab, ThreeSites) {
    let mut lab = lab(name);
    let sites = ThreeSites::build(&mut lab, nat).unwrap();
    (lab, sites)
}

/// Sends three pings and waits 300 ms for the last reply.
fn ping(from: &Host, to: impl Into<IpAddr>) -> PingStats {
    from.ping(to).count(3).linger(Duration::from_millis(300)).run_to_end().unwrap()
}

fn reaches(from: &Host, to: impl Into<IpAddr>) -> bool {
    let stats = ping(from, to);
    assert!(stats.received == 0 || stats.lost.is_empty(), "{stats}");
    stats.received > 0
}

fn public(site: &Site) -> Ipv4Addr {
    site.uplink().v4().unwrap()
}

#[test]
fn three_sites_come_up_quickly_and_reach_each_other_over_ipv4_and_ipv6() {
    let start = Instant::now();
    let (lab, three) = three_sites("up", None);
    println!("three sites and a controller up in {:.0?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(1500));
    for from in three.sites() {
        for to in three.sites() {
            assert!(reaches(from.edge(), public(to)));
            assert!(reaches(from.edge(), to.uplink().v6().unwrap()));
        }
        assert!(reaches(from.edge(), three.controller.v4().unwrap()));
        assert!(reaches(&three.controller, from.uplink().v6().unwrap()));
        assert!(reaches(from.workload(), from.edge().address()));
    }
    assert!(reaches(three.idc.workload(), three.idc.edge().v6().unwrap()));
    let start = Instant::now();
    lab.remove().unwrap();
    println!("removed in {:.0?}", start.elapsed());
}

#[test]
fn an_edge_does_not_forward_by_itself() {
    let (_lab, three) = three_sites("noforward", None);
    assert!(!reaches(three.aws_hk.workload(), three.controller.address()));
    three.aws_hk.edge().sysctl("ipv4.ip_forward", "1").unwrap();
    // There is no reply, as the internet has no route to the site, but the request arrives.
    let seen = three.controller.capture("eth0").unwrap();
    assert!(!reaches(three.aws_hk.workload(), three.controller.address()));
    wait_until(TIMEOUT, || seen.contains(&[172, 30, 0, 10]).unwrap()).unwrap();
}

#[test]
fn a_site_behind_a_nat_can_connect_but_not_be_connected_to() {
    let (_lab, three) = three_sites("nat", Some(Nat::masquerade()));
    let (inside, outside) = (three.aliyun_sz.edge(), &three.controller);
    assert!(reaches(inside, outside.v4().unwrap()));
    assert!(reaches(inside, outside.v6().unwrap()));
    assert!(!reaches(outside, public(&three.aliyun_sz)));
    assert!(!reaches(outside, three.aliyun_sz.uplink().v6().unwrap()));
    assert!(!reaches(outside, Ipv4Addr::new(100, 64, 2, 2)));
}

#[test]
fn a_flushed_nat_mapping_is_created_again_by_the_next_packet_from_inside() {
    let (_lab, three) = three_sites("forget", Some(Nat::masquerade()));
    let server = udp(&three.controller, SocketAddr::new(three.controller.address(), 4000));
    let client = udp(three.aliyun_sz.edge(), "0.0.0.0:5000".parse().unwrap());
    let mapped = exchange(&client, &server);
    assert_eq!(mapped.ip(), public(&three.aliyun_sz));
    assert!(arrives(&server, mapped, &client));
    three.aliyun_sz.forget_nat().unwrap();
    assert!(!arrives(&server, mapped, &client));
    let again = exchange(&client, &server);
    assert!(arrives(&server, again, &client));
    three.aws_hk.forget_nat().unwrap_err();
}

#[test]
fn a_nat_mapping_expires_after_its_timeout_and_can_have_a_random_port() {
    let nat = Nat::masquerade().random_ports().udp_timeout(Duration::from_secs(1));
    let (_lab, three) = three_sites("timeout", Some(nat));
    let server = udp(&three.controller, SocketAddr::new(three.controller.address(), 4000));
    let client = udp(three.aliyun_sz.edge(), "0.0.0.0:5000".parse().unwrap());
    let mapped = exchange(&client, &server);
    assert_ne!(mapped.port(), 5000);
    let idle = Instant::now();
    // Only one packet from outside, after the timeout: each packet would refresh a live mapping.
    wait_until(TIMEOUT, || idle.elapsed() > Duration::from_millis(2500)).unwrap();
    assert!(!arrives(&server, mapped, &client));
}

#[test]
fn a_one_to_one_nat_forwards_everything_to_the_edge() {
    let (_lab, three) = three_sites("onetoone", Some(Nat::one_to_one()));
    assert!(reaches(&three.controller, public(&three.aliyun_sz)));
    assert!(reaches(&three.controller, three.aliyun_sz.uplink().v6().unwrap()));
    assert!(reaches(three.aliyun_sz.edge(), three.controller.address()));
    let server = udp(three.aliyun_sz.edge(), "0.0.0.0:4000".parse().unwrap());
    let client = udp(&three.controller, "0.0.0.0:5000".parse().unwrap());
    assert!(arrives(&client, SocketAddr::new(public(&three.aliyun_sz).into(), 4000), &server));
}

#[test]
fn a_silent_path_mtu_drops_large_packets_both_ways_and_one_with_icmp_answers() {
    let (_lab, three) = three_sites("mtu", None);
    let (hk, idc) = (&three.aws_hk, &three.idc);
    let passes = |from: &Host, to: IpAddr, size| {
        let ping = from.ping(to).packet_size(size).dont_fragment().count(3);
        ping.linger(Duration::from_millis(300)).run_to_end().unwrap().received == 3
    };
    for (silent, mtu) in [(true, PathMtu::silent(1300)), (false, PathMtu::with_icmp(1300))] {
        hk.uplink().set_path_mtu(mtu).unwrap();
        for (from, to) in [(hk, idc), (idc, hk)] {
            for to in [IpAddr::V4(public(to)), to.uplink().v6().unwrap().into()] {
                let seen = from.edge().capture("eth0").unwrap();
                assert!(passes(from.edge(), to, 1300), "{to}");
                assert!(!passes(from.edge(), to, 1301), "{to}");
                let captured = seen.stop().unwrap();
                let answered = captured.packets().iter().any(Packet::is_too_big_error);
                assert_eq!(answered, !silent, "{to}");
            }
        }
        assert!(passes(idc.edge(), public(&three.aliyun_sz).into(), 1500));
        hk.uplink().set_path_mtu(None).unwrap();
        assert!(passes(hk.edge(), public(idc).into(), 1500));
    }
}

#[test]
fn a_path_mtu_applies_to_the_segments_of_super_packets() {
    let (_lab, three) = three_sites("gso", None);
    let (from, to) = (three.aws_hk.edge(), three.idc.edge());
    three.aws_hk.uplink().set_path_mtu(PathMtu::with_icmp(1300)).unwrap();
    let throughput = Iperf::tcp(1).run(from, to, public(&three.idc).into()).unwrap();
    println!("TCP over a path of 1300 bytes: {:.0} Mbit/s", throughput.mbit);
    assert!(throughput.mbit > 500.0);
}

#[test]
fn udp_is_blocked_and_unblocked_while_other_packets_pass() {
    let (_lab, three) = three_sites("block", None);
    let server = udp(three.idc.edge(), "0.0.0.0:4000".parse().unwrap());
    let client = udp(three.aws_hk.edge(), "0.0.0.0:5000".parse().unwrap());
    let to = SocketAddr::new(public(&three.idc).into(), 4000);
    assert!(arrives(&client, to, &server));
    three.aws_hk.uplink().block_udp(true).unwrap();
    assert!(!arrives(&client, to, &server));
    assert!(reaches(three.aws_hk.edge(), public(&three.idc)));
    three.aws_hk.uplink().block_udp(false).unwrap();
    assert!(arrives(&client, to, &server));
}

#[test]
fn a_link_is_cut_from_all_others_or_from_one() {
    let (_lab, three) = three_sites("cut", None);
    let (hk, sz, idc) = (&three.aws_hk, &three.aliyun_sz, &three.idc);
    hk.uplink().cut_from(idc.uplink(), true).unwrap();
    assert!(!reaches(hk.edge(), public(idc)));
    assert!(reaches(hk.edge(), public(sz)));
    hk.uplink().cut(true).unwrap();
    assert!(!reaches(hk.edge(), public(sz)));
    hk.uplink().cut(false).unwrap();
    idc.uplink().cut_from(hk.uplink(), false).unwrap();
    assert!(reaches(hk.edge(), public(idc)));
}

#[test]
fn an_address_moves_within_its_subnet_and_to_another_one() {
    let (_lab, three) = three_sites("move", Some(Nat::masquerade()));
    let hk = &three.aws_hk;
    for address in ["203.0.113.99/24", "203.0.114.5/24", "2001:db8:44::9/64"] {
        let old: Vec<IpAddr> = hk.uplink().addresses().iter().map(|net| net.addr()).collect();
        let start = Instant::now();
        hk.uplink().move_address(address).unwrap();
        println!("moved to {address} in {:.0?}", start.elapsed());
        let new = address.split_once('/').unwrap().0.parse::<IpAddr>().unwrap();
        assert!(reaches(three.idc.edge(), new));
        let gone = old.into_iter().find(|old| old.is_ipv4() == new.is_ipv4()).unwrap();
        assert!(!reaches(three.idc.edge(), gone));
        let back = if new.is_ipv4() {
            three.idc.uplink().v4().unwrap().into()
        } else {
            three.idc.uplink().v6().unwrap().into()
        };
        assert!(reaches(hk.edge(), IpAddr::clone(&back)));
    }
    hk.uplink().move_address("198.18.0.9/24").unwrap_err();
    // The NAT's address changes, the edge's doesn't.
    three.aliyun_sz.uplink().move_address("192.0.2.99/24").unwrap();
    assert_eq!(three.aliyun_sz.nat().unwrap().address(), Ipv4Addr::new(192, 0, 2, 99));
    assert!(reaches(three.aliyun_sz.edge(), three.controller.address()));
}

#[test]
fn a_rate_limit_and_its_removal_apply_to_both_directions() {
    let (_lab, three) = three_sites("rate", None);
    let (hk, idc) = (three.aws_hk.edge(), three.idc.edge());
    let to = public(&three.idc).into();
    let free = Iperf::tcp(1).run(hk, idc, to).unwrap();
    three.aws_hk.uplink().limit_rate(50).unwrap();
    three.aws_hk.uplink().limit_rate(100).unwrap();
    let up = Iperf::tcp(2).run(hk, idc, to).unwrap();
    let down = Iperf::tcp(2).reverse().run(hk, idc, to).unwrap();
    three.aws_hk.uplink().limit_rate(None).unwrap();
    let again = Iperf::tcp(1).run(hk, idc, to).unwrap();
    println!(
        "{:.0} Mbit/s, limited to 100: up {:.0}, down {:.0}; then {:.0}",
        free.mbit, up.mbit, down.mbit, again.mbit
    );
    assert!((80.0..105.0).contains(&up.mbit) && (80.0..105.0).contains(&down.mbit));
    assert!(free.mbit > 1000.0 && again.mbit > 1000.0);
}

#[test]
fn loss_hits_single_packets_and_each_lost_one_is_reported() {
    let (_lab, three) = three_sites("loss", None);
    let hk = three.aws_hk.edge();
    let to = public(&three.idc);
    let whole = largest_packet(&three);
    three.aws_hk.uplink().set_loss(20.0).unwrap();
    let stats = hk.ping(to).interval(Duration::from_millis(1)).count(1000).run_to_end().unwrap();
    println!("20 % each way: {stats}");
    assert_eq!(stats.lost.len() + stats.received, 1000);
    assert!((540..740).contains(&stats.received), "64 % expected: {stats}");
    three.aws_hk.uplink().set_loss(1.0).unwrap();
    let single = largest_packet(&three);
    assert!(whole > 1514 && single <= 1514, "super-packets of {whole}, then {single}");
    three.aws_hk.uplink().set_loss(0.0).unwrap();
    assert!(reaches(hk, to));
    assert!(largest_packet(&three) > 1514);
}

/// The largest frame of an HTTP response to aws-hk, Ethernet header included.
fn largest_packet(three: &ThreeSites) -> usize {
    let capture = three.aws_hk.uplink().capture().unwrap();
    let server = http::Server::start(&three.controller, 8080, vec![0; 1 << 20]).unwrap();
    assert_eq!(http::fetch(three.aws_hk.edge(), server.address()).unwrap().len(), 1 << 20);
    let pcap = capture.stop().unwrap();
    pcap.packets().iter().map(|packet| packet.bytes.len()).max().unwrap()
}

#[test]
fn a_pinger_reports_the_gap_during_an_outage() {
    let (_lab, three) = three_sites("gap", None);
    let pinger = three
        .aws_hk
        .edge()
        .ping(public(&three.idc))
        .interval(Duration::from_millis(5))
        .start()
        .unwrap();
    pinger.steady(10, TIMEOUT).unwrap();
    three.idc.uplink().cut(true).unwrap();
    let cut = Instant::now();
    wait_until(TIMEOUT, || cut.elapsed() > Duration::from_millis(300)).unwrap();
    three.idc.uplink().cut(false).unwrap();
    let back = Instant::now();
    let after = pinger.reply_after(back, TIMEOUT).unwrap();
    pinger.steady(10, TIMEOUT).unwrap();
    let stats = pinger.stop();
    println!("back after {after:.1?}: {stats}");
    assert!(after < Duration::from_millis(100));
    assert!((300..500).contains(&stats.longest_gap.as_millis()), "{stats}");
    assert!((40..90).contains(&stats.lost.len()), "{stats}");
}

#[test]
fn a_network_is_added_behind_a_running_edge_and_a_page_is_fetched_from_it() {
    let (lab, three) = three_sites("pods", None);
    let pod = lab.add_network(&three.aws_hk, "10.244.0.0/16").unwrap();
    assert_eq!(pod.address(), Ipv4Addr::new(10, 244, 0, 10));
    let server = http::Server::start(&pod, 8080, "hello from a pod").unwrap();
    three.aws_hk.edge().sysctl("ipv4.ip_forward", "1").unwrap();
    let page = http::fetch(three.aws_hk.workload(), server.address()).unwrap();
    assert_eq!(page, b"hello from a pod");
}

#[test]
fn a_capture_has_the_packets_of_its_link_and_nothing_else() {
    let (_lab, three) = three_sites("capture", None);
    let capture = three.idc.uplink().capture().unwrap();
    let client = udp(three.aws_hk.edge(), "0.0.0.0:5000".parse().unwrap());
    let server = udp(three.idc.edge(), "0.0.0.0:4000".parse().unwrap());
    client.send_to(b"a canary's song", SocketAddr::new(public(&three.idc).into(), 4000)).unwrap();
    server.recv_from(&mut [0; 64]).unwrap();
    wait_until(TIMEOUT, || capture.contains(b"canary").unwrap()).unwrap();
    let pcap = capture.stop().unwrap();
    assert!(!pcap.contains(b"cuckoo"));
    assert!(pcap.packets().iter().all(|packet| !packet.bytes.is_empty()));
}

#[test]
fn overlapping_subnets_and_equal_names_are_refused() {
    let mut lab = lab("refuse");
    lab.site("a").public("203.0.113.7/24").inner("10.1.0.0/16").build().unwrap();
    let error = lab.host("b").public("203.0.113.9/24").build().unwrap_err();
    let message = format!("{error:#}");
    assert!(
        message.contains("203.0.113.9/24 of b") && message.contains("203.0.113.0/24 of a"),
        "{message}"
    );
    lab.host("a").public("198.51.100.9/24").build().unwrap_err();
}

#[test]
fn a_program_of_the_lab_ends_with_the_lab() {
    let (lab, three) = three_sites("programs", None);
    let host = three.aws_hk.edge();
    let mut shell = host.command("sh");
    shell.args(["-c", "echo started; sleep 100 & wait"]);
    let mut process = host.spawn("shell", shell).unwrap();
    process.wait_for_log("started", TIMEOUT).unwrap();
    let pid = process.pid();
    lab.remove().unwrap();
    wait_until(TIMEOUT, || !process.is_running()).unwrap();
    drop(process);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut seen = None;
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let (lab, three) = three_sites("panic", Some(Nat::masquerade()));
        let mut sleep = three.idc.workload().command("sleep");
        sleep.arg("100");
        let process = three.idc.workload().spawn("sleep", sleep).unwrap();
        seen = Some((lab.id(), lab.dir().to_owned(), process.pid()));
        panic!("as a failed test does");
    }));
    panic.unwrap_err();
    let (id, dir, pid) = seen.unwrap();
    assert_eq!(namespaces(&id), Vec::<String>::new());
    assert!(!dir.exists() && !Path::new(&format!("/proc/{pid}")).exists());
}

fn namespaces(id: &str) -> Vec<String> {
    let labs = cframe_testbed::lab::list().unwrap();
    labs.into_iter().filter(|lab| lab.id == id).flat_map(|lab| lab.namespaces).collect()
}

fn udp(host: &Host, at: SocketAddr) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

/// Sends a datagram to the server and returns the source address that the server saw.
fn exchange(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
    server.recv_from(&mut [0; 64]).unwrap().1
}

fn arrives(from: &UdpSocket, to: SocketAddr, at: &UdpSocket) -> bool {
    from.send_to(b"knock", to).unwrap();
    at.recv_from(&mut [0; 64]).is_ok()
}

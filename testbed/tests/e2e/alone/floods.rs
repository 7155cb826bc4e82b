//! Floods at the link port, from a host that is no peer.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cframe_pki::tls;
use cframe_testbed::Host;
use quinn_proto::crypto::rustls::QuicClientConfig;

use crate::impostor::Forge;
use crate::lab::{DeployedPair, HK, MS, alone, figure, mib};
use crate::traffic::Background;

/// Datagrams per second of each flood.
const RATE: u64 = 5_000;
const FLOOD_TIME: Duration = Duration::from_secs(5);

/// First packets of different handshakes.
fn first_packets(forge: &Forge, count: usize) -> Vec<Vec<u8>> {
    let id = "spiffe://lab/ns/prod/edge/flood".parse().unwrap();
    let credentials = tls::LiveCredentials::new(forge.certify(&id)).unwrap();
    let client = tls::link_client(&credentials, forge.any_peer());
    let client = Arc::new(QuicClientConfig::try_from(client).unwrap());
    let config = quinn_proto::ClientConfig::new(client);
    let to: SocketAddr = HK.parse().unwrap();
    let now = Instant::now();
    (0..count)
        .map(|_| {
            let endpoint = Arc::new(quinn_proto::EndpointConfig::default());
            let mut endpoint = quinn_proto::Endpoint::new(endpoint, None, true, None);
            let (_, mut connection) =
                endpoint.connect(now, config.clone(), to, tls::SERVER_NAME).unwrap();
            let mut packet = Vec::new();
            let transmit = connection.poll_transmit(now, 1, &mut packet).unwrap();
            packet.truncate(transmit.size);
            packet
        })
        .collect()
}

/// Sends the datagrams that `next` writes at [`RATE`], from several ports.
fn flood(host: &Host, mut next: impl FnMut(u64, &mut Vec<u8>) + Send + 'static) -> Background {
    let bind = || (0..8).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect::<Vec<_>>();
    let sockets = host.enter(bind).unwrap();
    let to: SocketAddr = HK.parse().unwrap();
    Background::run(move |stop, count| {
        let (start, mut sent, mut packet) = (Instant::now(), 0_u64, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            #[expect(clippy::cast_possible_truncation, reason = "seconds of packets")]
            let due = (start.elapsed().as_micros() * u128::from(RATE) / 1_000_000) as u64;
            while sent < due {
                next(sent, &mut packet);
                let socket = &sockets[usize::try_from(sent).unwrap() % sockets.len()];
                drop(socket.send_to(&packet, to));
                sent += 1;
            }
            count.store(sent, Ordering::Relaxed);
            std::thread::sleep(MS);
        }
    })
}

#[test]
fn floods_of_garbage_and_of_handshakes_cost_established_links_at_most_one_percent() {
    let pair = DeployedPair::start("flood", alone());
    let attacker = &pair.lab.sites.controller;
    let forge = Forge::of(&pair.lab.deployment.controller_dir());
    let firsts = first_packets(&forge, 4000);
    let malformed = firsts.clone();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let pinger = pair.ping(10 * MS);
    let floods: [(&str, Background); 3] = [
        (
            "garbage",
            flood(attacker, move |_, packet| {
                packet.clear();
                let length = 1 + random() % 1400;
                packet.extend((0..length).map(|_| random().to_le_bytes()[3]));
            }),
        ),
        (
            "malformed first packets",
            flood(attacker, move |n, packet| {
                let first = &malformed[usize::try_from(n).unwrap() % malformed.len()];
                packet.clone_from(first);
                let at = usize::try_from(n * 31).unwrap() % packet.len();
                packet[at] ^= 0x55;
            }),
        ),
        (
            "handshakes",
            flood(attacker, move |n, packet| {
                packet.clone_from(&firsts[usize::try_from(n).unwrap() % firsts.len()]);
            }),
        ),
    ];
    std::thread::sleep(FLOOD_TIME);
    let sent: Vec<_> =
        floods.iter().map(|(what, flood)| format!("{} {what}", flood.counted())).collect();
    drop(floods);
    let stats = pinger.stop();
    let rss = pair.acceptor.process().peak_rss_kib().unwrap();
    figure(
        "floods at the link port in 5 s",
        format_args!(
            "{}; {} of {} pings lost (bound 1 %), {} datagrams without room in the socket, peak RSS {:.1} MiB, drops {}",
            sent.join(", "),
            stats.lost.len(),
            stats.sent,
            receive_buffer_errors(pair.acceptor.host()),
            mib(rss),
            pair.acceptor.status().unwrap()["drops"]
        ),
    );
    assert!(stats.lost.len() * 100 <= stats.sent, "{stats}");
    assert!(rss <= 64 << 10, "{rss} KiB");
    // A peer can connect right after the floods.
    let mut pair = pair;
    pair.dialer.kill9().unwrap();
    pair.dialer.start().unwrap();
    let pinger = pair.ping(5 * MS);
    drop(pinger);
}

/// Datagrams that a host has dropped because a socket's buffer was full (`RcvbufErrors` of proc_net_snmp).
fn receive_buffer_errors(host: &Host) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let text = host.enter(read).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "RcvbufErrors").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

//! QUIC configuration: from the host's [`Config`] to quinn-proto's types.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{hkdf, hmac};
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, ConnectionId, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt, congestion::BbrConfig,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    config::{Config, ConfigError, Congestion},
    congestion::TransparentConfig,
    connection_id::KeyedIds,
};

/// The smallest UDP payload in bytes, which every path must carry (RFC 9000 §14).
pub(crate) const MIN_MTU: u16 = 1200;
/// Bytes of the destination id that a client chooses first: as many as QUIC allows.
const FIRST_ID: usize = 20;
/// A keep-alive is sent when nothing else was for this time. It also keeps NAT mappings, which
/// expire after 30 s at the earliest (RFC 4787 REQ-5 requires 2 min, but many NATs use 30 s).
const KEEP_ALIVE: Duration = Duration::from_millis(2500);
/// Counted from the first packet without an answer. One is sent at most [`KEEP_ALIVE`] after an outage
/// starts, so the outage is noticed in less than ten seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(7);
/// Assumed before the first measurement; the first handshake retransmission comes after 3 × this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Bytes in quinn-proto's send buffer: one GSO batch. Other packets wait in our queue, which limits
/// their age.
const SEND_BUFFER: usize = 96 * 1024;
/// The same if congestion control has a window: less, because the buffer is not fair among flows.
const SEND_BUFFER_WITH_WINDOW: usize = 12 * 1024;
/// A peer may receive this many packets without sending an acknowledgement …
const PACKETS_PER_ACK: u32 = 24;
/// … for this long.
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

/// The settings of new connections that may change while the edge runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathSettings {
    pub(crate) underlay_mtu: u16,
    pub(crate) tun_mtu: u16,
    pub(crate) congestion: Congestion,
}

pub(crate) fn endpoint(config: &Config) -> Result<EndpointConfig, ConfigError> {
    if config.underlay_mtu < 1280 {
        return Err(ConfigError::UnderlayMtu(config.underlay_mtu));
    }
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &config.keys.reset);
    let mut endpoint = EndpointConfig::new(Arc::new(reset));
    let key = config.keys.connection_id;
    // Not quinn-proto's own seed.
    let ids = config.seed.map(|byte| byte ^ 0x5a);
    endpoint
        .cid_generator(move || Box::new(KeyedIds::new(key, StdRng::from_seed(ids))))
        // One packet of each of a thousand peers may need a reset within moments of a restart.
        .min_reset_interval(Duration::from_micros(100))
        .rng_seed(Some(config.seed));
    endpoint
        .max_udp_payload_size(max_udp_payload(config.underlay_mtu))
        .map_err(|_| ConfigError::UnderlayMtu(config.underlay_mtu))?;
    Ok(endpoint)
}

/// Without a [`TransportConfig`]. The first destination ids are random (RFC 9000 §7.2), but of the seed, unlike
/// quinn-proto's own, so that a run of the simulation can be repeated.
pub(crate) fn client(config: &Config) -> ClientConfig {
    let rng = Mutex::new(StdRng::from_seed(config.seed.map(|byte| byte ^ 0xa5)));
    let id = move || {
        let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
        ConnectionId::new(&rng.random::<[u8; FIRST_ID]>())
    };
    let mut client = ClientConfig::new(config.crypto.client.clone());
    client.initial_dst_cid_provider(Arc::new(id));
    client
}

/// Without a [`TransportConfig`].
pub(crate) fn server(config: &Config) -> ServerConfig {
    let retry = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&config.keys.retry);
    let mut server = ServerConfig::new(config.crypto.server.clone(), Arc::new(retry));
    server
        .max_incoming(256)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(1024 * 1024);
    server.validation_token.sent(0);
    server
}

pub(crate) fn transport(path: &PathSettings) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(max_udp_payload(path.underlay_mtu).min(needed_udp_payload(path.tun_mtu)))
        // To the byte: a few bytes too few would fragment every full packet.
        .minimum_change(1)
        .interval(Duration::from_secs(30))
        .black_hole_cooldown(Duration::from_secs(10));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        // The hello.
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(4096))
        .receive_window(VarInt::from_u32(4096))
        .send_window(4096)
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(MIN_MTU)
        .min_mtu(MIN_MTU)
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(Some(1024 * 1024))
        .datagram_send_buffer_size(SEND_BUFFER)
        .crypto_buffer_size(32 * 1024)
        .allow_spin(false);
    match path.congestion {
        Congestion::Transparent => transport
            .congestion_controller_factory(Arc::new(TransparentConfig))
            .ack_frequency_config(Some(ack_frequency())),
        Congestion::Bbr => transport
            .congestion_controller_factory(Arc::new(BbrConfig::default()))
            .datagram_send_buffer_size(SEND_BUFFER_WITH_WINDOW),
    };
    transport
}

/// How often the peer should acknowledge. Nothing is retransmitted and there is no window, so
/// acknowledgements only free memory and show the path's state: one for many packets is enough, and
/// each one wakes the other end.
fn ack_frequency() -> AckFrequencyConfig {
    let mut frequency = AckFrequencyConfig::default();
    frequency
        .ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK))
        .max_ack_delay(Some(MAX_ACK_DELAY));
    frequency
}

/// The UDP payload in bytes that carries a packet of the TUN's MTU whole.
///
/// MTU discovery stops there: quinn-proto assumes a black hole if, after losses, only packets are
/// acknowledged that are smaller than the largest one ever delivered, so full packets must be as
/// large as the path's known MTU ([decision 5](../../../doc/decisions/0005-mtu-and-fragments.md)).
fn needed_udp_payload(tun_mtu: u16) -> u16 {
    // Short header, connection id, packet number and tag: 1 + 8 + 4 + 16 bytes. The frame: 9 at
    // most.
    tun_mtu.saturating_add(29 + 9).max(MIN_MTU)
}

/// The UDP payload of the largest underlay packet over IPv4 (20 + 8 bytes of headers); over IPv6
/// discovery ends 20 bytes lower by itself.
fn max_udp_payload(underlay_mtu: u16) -> u16 {
    (underlay_mtu - 28).max(MIN_MTU)
}

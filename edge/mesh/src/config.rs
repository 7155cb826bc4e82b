//! What a host gives the core at its start, and how that becomes QUIC configuration.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::{hkdf, hmac};
use cframe_pki::identity::SpiffeId;
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt, congestion,
    crypto::{
        ClientConfig as ClientCrypto, ServerConfig as ServerCrypto,
        rustls::{QuicClientConfig, QuicServerConfig},
    },
};
use rand::{SeedableRng, rngs::StdRng};
use thiserror::Error;

use crate::{congestion::TransparentConfig, connection_id::Keyed};

/// Silence after which a keep-alive is sent. It also keeps NAT mappings, which forget UDP after
/// 30 s at the earliest (RFC 4787 REQ-5 asks for 2 min, many boxes give 30 s).
const KEEP_ALIVE: Duration = Duration::from_millis(2500);
/// Silence after which a link is dead. It begins with the first packet that is not answered, at most a
/// keep-alive after the outage: together less than ten seconds.
pub(crate) const IDLE: Duration = Duration::from_secs(7);
/// The smallest UDP payload that every path is taken to carry (RFC 9000 §14).
pub(crate) const MIN_MTU: u16 = 1200;
/// Assumed before the first measurement; sets the first handshake retransmission to 3 × this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Bytes handed to quinn-proto ahead of sending: one GSO batch, so that what waits, waits in our
/// queue, where it has an age.
const SEND_AHEAD: usize = 96 * 1024;

/// The same where a window holds it up: little, as what is there has no fair order any more.
const SEND_AHEAD_OF_A_WINDOW: usize = 12 * 1024;
/// Packets that a peer may receive without an acknowledgement at once, and for how long.
const PACKETS_PER_ACK: u32 = 24;
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

/// Everything the core is told once.
pub struct Config {
    /// This edge's own identity.
    pub id: SpiffeId,
    /// Random for each start of the process: peers see by it that what they knew is gone.
    pub boot: [u8; 16],
    /// Keys that outlive a restart.
    pub keys: EndpointKeys,
    /// What proves and protects links: TLS, but in a simulation.
    pub crypto: Crypto,
    /// The TUN's MTU in bytes, 1280 to 1500.
    pub tun_mtu: u16,
    /// The largest IP packet of the underlay in bytes: the upper bound of path MTU discovery.
    pub underlay_mtu: u16,
    /// Who answers for congestion.
    pub congestion: Congestion,
    /// What the TUN takes.
    pub offload: Offload,
    /// Seeds the core's randomness (connection ids, jitter).
    pub seed: [u8; 32],
}

/// The cryptography of links. The core asks the peer's identity of the session, as the certificate
/// chain that rustls has: a `Vec<CertificateDer<'static>>`.
#[derive(Clone)]
pub struct Crypto {
    /// For dialling.
    pub client: Arc<dyn ClientCrypto>,
    /// For accepting.
    pub server: Arc<dyn ServerCrypto>,
}

impl Crypto {
    /// TLS, from [`cframe_pki::tls::link_client`] and [`cframe_pki::tls::link_server`].
    ///
    /// # Errors
    /// When a configuration has no cipher suite for QUIC's Initial packets.
    pub fn tls(
        client: rustls::ClientConfig,
        server: rustls::ServerConfig,
    ) -> Result<Self, ConfigError> {
        let client = QuicClientConfig::try_from(client);
        let server = QuicServerConfig::try_from(server);
        Ok(Self {
            client: Arc::new(client.map_err(|_| ConfigError::NoInitialCipherSuite)?),
            server: Arc::new(server.map_err(|_| ConfigError::NoInitialCipherSuite)?),
        })
    }
}

/// Secrets of the QUIC endpoint. Kept on disk so that the peers of a restarted edge are told by a
/// stateless reset (RFC 9000 §10.3) instead of waiting for their idle timeout.
#[derive(Clone)]
pub struct EndpointKeys {
    /// Makes stateless reset tokens.
    pub reset: [u8; 64],
    /// Marks connection ids as ours; without it a restarted endpoint ignores packets of old links
    /// and answers no reset.
    pub connection_id: u64,
    /// Seals Retry tokens.
    pub retry: [u8; 32],
}

impl fmt::Debug for EndpointKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointKeys(..)")
    }
}

/// Congestion control of links.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Congestion {
    /// None of our own: IP traffic brings its own (RFC 8085 §3.1.11). Bytes in flight are capped.
    #[default]
    Transparent,
    /// quinn's BBR.
    Bbr,
}

/// What may be written to the TUN.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offload {
    /// UDP super-packets (`TUN_F_USO4`, `TUN_F_USO6`).
    pub udp: bool,
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The identity is not an edge's.
    #[error("{0} is not an edge's identity: links are between edges")]
    NotAnEdge(SpiffeId),
    /// The underlay carries less than QUIC needs.
    #[error(
        "an underlay MTU of {0} bytes is outside 1280 to 65535: QUIC needs 1200 bytes of UDP payload"
    )]
    UnderlayMtu(u16),
    /// TLS without a cipher suite for QUIC's Initial packets.
    #[error("the TLS configuration lacks TLS_AES_128_GCM_SHA256, which QUIC's Initial packets use")]
    NoInitialCipherSuite,
}

pub(crate) fn endpoint(config: &Config) -> Result<EndpointConfig, ConfigError> {
    if config.underlay_mtu < 1280 {
        return Err(ConfigError::UnderlayMtu(config.underlay_mtu));
    }
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &config.keys.reset);
    let mut endpoint = EndpointConfig::new(Arc::new(reset));
    let key = config.keys.connection_id;
    // Another use of the seed than quinn-proto's own.
    let ids = config.seed.map(|byte| byte ^ 0x5a);
    endpoint
        .cid_generator(move || Box::new(Keyed::new(key, StdRng::from_seed(ids))))
        // One packet of each of a thousand peers may ask for a reset within moments of a restart.
        .min_reset_interval(Duration::from_micros(100))
        .rng_seed(Some(config.seed));
    endpoint
        .max_udp_payload_size(max_udp_payload(config.underlay_mtu))
        .map_err(|_| ConfigError::UnderlayMtu(config.underlay_mtu))?;
    Ok(endpoint)
}

pub(crate) fn server(config: &Config) -> ServerConfig {
    let retry = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&config.keys.retry);
    let mut server = ServerConfig::new(config.crypto.server.clone(), Arc::new(retry));
    server
        .transport_config(Arc::new(transport(
            config.underlay_mtu,
            config.tun_mtu,
            config.congestion,
        )))
        .max_incoming(256)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(1024 * 1024);
    server.validation_token.sent(0);
    server
}

pub(crate) fn client(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new(config.crypto.client.clone());
    let transport = transport(config.underlay_mtu, config.tun_mtu, config.congestion);
    client.transport_config(Arc::new(transport));
    client
}

pub(crate) fn transport(
    underlay_mtu: u16,
    tun_mtu: u16,
    congestion: Congestion,
) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(max_udp_payload(underlay_mtu).min(needed(tun_mtu)))
        // To the byte: a few too few would put every full packet in two.
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
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(MIN_MTU)
        .min_mtu(MIN_MTU)
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(Some(1024 * 1024))
        .datagram_send_buffer_size(SEND_AHEAD)
        .crypto_buffer_size(32 * 1024)
        .allow_spin(false);
    match congestion {
        Congestion::Transparent => transport
            .congestion_controller_factory(Arc::new(TransparentConfig))
            .ack_frequency_config(Some(acknowledgements())),
        Congestion::Bbr => transport
            .congestion_controller_factory(Arc::new(congestion::BbrConfig::default()))
            .datagram_send_buffer_size(SEND_AHEAD_OF_A_WINDOW),
    };
    transport
}

/// What a link asks of its peer. Nothing is sent again and there is no window, so that
/// acknowledgements only free memory and show the path's state: one for many packets will do, and
/// each is a wake-up at the other end.
fn acknowledgements() -> AckFrequencyConfig {
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements
        .ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK))
        .max_ack_delay(Some(MAX_ACK_DELAY));
    acknowledgements
}

/// UDP payload in which a packet of the TUN's MTU fits whole. No more is looked for: quinn-proto takes
/// losses for a black hole if smaller packets than the largest that ever arrived are all that is
/// acknowledged after them, so that full packets are to be as large as the path is known to be
/// ([decision 5](../../../doc/decisions/0005-mtu-and-fragments.md)).
fn needed(tun_mtu: u16) -> u16 {
    // Short header, connection id, packet number and tag: 1 + 8 + 4 + 16 bytes. The frame: 9 at most.
    tun_mtu.saturating_add(29 + 9).max(MIN_MTU)
}

/// UDP payload of the largest underlay packet over IPv4 (20 + 8 bytes of headers); over IPv6
/// discovery ends 20 bytes lower by itself.
fn max_udp_payload(underlay_mtu: u16) -> u16 {
    (underlay_mtu - 28).max(MIN_MTU)
}

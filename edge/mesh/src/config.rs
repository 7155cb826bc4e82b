//! The configuration that a host passes to [`Mesh::new`](crate::Mesh::new).

use std::{fmt, sync::Arc};

use cframe_pki::identity::SpiffeId;
use ipnet::IpNet;
use quinn_proto::crypto::{
    ClientConfig as ClientCrypto, ServerConfig as ServerCrypto,
    rustls::{QuicClientConfig, QuicServerConfig},
};
use thiserror::Error;

pub struct Config {
    /// This edge's own identity.
    pub id: SpiffeId,
    /// Random for each start of the process: it shows peers that this edge has restarted.
    pub boot: [u8; 16],
    pub keys: EndpointKeys,
    pub crypto: Crypto,
    /// The TUN's MTU in bytes, 1280 to 1500.
    pub tun_mtu: u16,
    /// The largest IP packet of the underlay in bytes: the upper bound of path MTU discovery.
    pub underlay_mtu: u16,
    pub congestion: Congestion,
    pub offload: Offload,
    /// Addresses from and to which no packet is carried, whatever prefixes say.
    pub refused: Vec<IpNet>,
    /// Seed of all random values of the core (connection ids, jitter).
    pub seed: [u8; 32],
}

/// The cryptography of links: TLS, except in a simulation. The session's peer identity must be, as
/// in rustls, the certificate chain: a `Vec<CertificateDer<'static>>`.
#[derive(Clone)]
pub struct Crypto {
    pub client: Arc<dyn ClientCrypto>,
    pub server: Arc<dyn ServerCrypto>,
}

impl Crypto {
    /// TLS, from [`cframe_pki::tls::link_client`] and [`cframe_pki::tls::link_server`].
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

/// Secrets of the QUIC endpoint. They are stored on disk, so that a restarted edge can send its
/// peers a stateless reset (RFC 9000 §10.3), and they need not wait for their idle timeout.
#[derive(Clone)]
pub struct EndpointKeys {
    /// For stateless reset tokens.
    pub reset: [u8; 64],
    /// Marks connection ids as ours; without it a restarted endpoint ignores packets of old links
    /// instead of answering with a reset.
    pub connection_id: u64,
    /// Encrypts Retry tokens.
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
    /// None: the IP traffic inside has its own (RFC 8085 §3.1.11). Bytes in flight are capped.
    #[default]
    Transparent,
    /// quinn's BBR.
    Bbr,
}

/// Offloads of the TUN device for what is written to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offload {
    /// UDP super-packets (`TUN_F_USO4`, `TUN_F_USO6`).
    pub udp: bool,
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{0} is not an edge's identity: links are between edges")]
    NotAnEdge(SpiffeId),
    #[error(
        "an underlay MTU of {0} bytes is outside 1280 to 65535: QUIC needs 1200 bytes of UDP payload"
    )]
    UnderlayMtu(u16),
    #[error("the TLS configuration lacks TLS_AES_128_GCM_SHA256, which QUIC's Initial packets use")]
    NoInitialCipherSuite,
}

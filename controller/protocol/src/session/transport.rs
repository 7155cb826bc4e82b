//! QUIC settings. quinn's defaults are a web server's: hundreds of streams, windows without end, no
//! keep-alive.

use std::{sync::Arc, time::Duration};

use quinn::{
    ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};

/// Streams that an edge has open at once.
pub const EDGE_STREAMS: u32 = 1;
/// Streams that an admin has open at once.
pub const ADMIN_STREAMS: u32 = 8;

const KEEP_ALIVE: Duration = Duration::from_secs(3);
const IDLE_MILLIS: u32 = 9_000;
const IDLE_ENROLLING_MILLIS: u32 = 5_000;

/// A client's guess before the first round trip. A third of quinn's: what a controller missed because it
/// was being restarted is sent again after 0.3 s, not after a second.
const INITIAL_RTT: Duration = Duration::from_millis(100);

const KIB: u32 = 1024;

/// For a server of sessions and admin calls. Streams are an admin's number; for an edge call
/// [`set_max_concurrent_bi_streams`](quinn::Connection::set_max_concurrent_bi_streams) with
/// [`EDGE_STREAMS`] once its role is known. A session holds at most 256 KiB of what was received, and
/// 512 KiB of what was sent and not acknowledged.
pub fn control_server() -> TransportConfig {
    let mut config = bounded(128 * KIB, 256 * KIB, 512 * KIB);
    config
        .max_concurrent_bidi_streams(ADMIN_STREAMS.into())
        .max_idle_timeout(Some(idle(IDLE_MILLIS)))
        .keep_alive_interval(Some(KEEP_ALIVE));
    config
}

/// For a server of enrolment: one stream, one request, and little patience.
pub fn enroll_server() -> TransportConfig {
    let mut config = bounded(8 * KIB, 8 * KIB, 128 * KIB);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_idle_timeout(Some(idle(IDLE_ENROLLING_MILLIS)));
    config
}

/// For clients of either: streams are opened by them alone.
pub fn client() -> TransportConfig {
    let mut config = bounded(512 * KIB, 768 * KIB, 256 * KIB);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(idle(IDLE_MILLIS)))
        .keep_alive_interval(Some(KEEP_ALIVE));
    config
}

/// A server with a TLS configuration of `cframe-pki` and one of the settings above. Limits on
/// handshakes and the use of Retry are the caller's.
///
/// # Errors
/// When the TLS configuration lacks QUIC's initial cipher suite, `TLS13_AES_128_GCM_SHA256`.
pub fn server_config(
    tls: Arc<rustls::ServerConfig>,
    transport: TransportConfig,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A client with a TLS configuration of `cframe-pki` and the settings of [`client`].
///
/// # Errors
/// When the TLS configuration lacks QUIC's initial cipher suite, `TLS13_AES_128_GCM_SHA256`.
pub fn client_config(tls: Arc<rustls::ClientConfig>) -> Result<ClientConfig, NoInitialCipherSuite> {
    let crypto = QuicClientConfig::try_from(tls)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(client()));
    Ok(config)
}

/// No streams, no datagrams, and windows in bytes. Packets stay at the 1,200 bytes that every path carries: a search for
/// more costs each of thousands of sessions a dozen packets, and there is nothing that would be faster for it.
fn bounded(stream: u32, connection: u32, send: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(stream.into())
        .receive_window(connection.into())
        .send_window(send.into())
        .mtu_discovery_config(None)
        .datagram_receive_buffer_size(None);
    config
}

fn idle(millis: u32) -> IdleTimeout {
    VarInt::from_u32(millis).into()
}

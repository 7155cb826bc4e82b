//! QUIC settings. quinn's defaults suit a web server: hundreds of streams, unlimited windows, no
//! keep-alive.

use std::{sync::Arc, time::Duration};

use quinn::{
    ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};

/// Concurrent bidirectional streams of an edge.
pub const EDGE_STREAMS: u32 = 1;
/// Concurrent bidirectional streams of an admin.
pub const ADMIN_STREAMS: u32 = 8;

const KEEP_ALIVE: Duration = Duration::from_secs(3);
const IDLE_MILLIS: u32 = 9_000;
const ENROLL_IDLE_MILLIS: u32 = 5_000;

/// A client's estimate before the first round trip, a third of quinn's. A packet that a restarting
/// controller missed is sent again after 0.3 s instead of 1 s.
const INITIAL_RTT: Duration = Duration::from_millis(100);

const KIB: u32 = 1024;

/// For a server of sessions and admin calls, with [`ADMIN_STREAMS`]. Once a peer's role is known to be an
/// edge, call [`set_max_concurrent_bi_streams`](quinn::Connection::set_max_concurrent_bi_streams) with
/// [`EDGE_STREAMS`]. A session holds at most 256 KiB of received data, and 512 KiB of sent data that is
/// not acknowledged.
pub fn control_server() -> TransportConfig {
    let mut config = bounded(128 * KIB, 256 * KIB, 512 * KIB);
    config
        .max_concurrent_bidi_streams(ADMIN_STREAMS.into())
        .max_idle_timeout(Some(idle(IDLE_MILLIS)))
        .keep_alive_interval(Some(KEEP_ALIVE));
    config
}

/// For a server of enrolment: one stream with one request, and a short idle time-out.
pub fn enroll_server() -> TransportConfig {
    let mut config = bounded(8 * KIB, 8 * KIB, 128 * KIB);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_idle_timeout(Some(idle(ENROLL_IDLE_MILLIS)));
    config
}

/// For clients of both. Only clients open streams.
pub fn client() -> TransportConfig {
    let mut config = bounded(512 * KIB, 768 * KIB, 256 * KIB);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(idle(IDLE_MILLIS)))
        .keep_alive_interval(Some(KEEP_ALIVE));
    config
}

/// For a TLS configuration of `cframe-pki` and one of the settings above. The caller adds limits on
/// handshakes and the use of Retry.
pub fn server_config(
    tls: Arc<rustls::ServerConfig>,
    transport: TransportConfig,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// For a TLS configuration of `cframe-pki`, with the settings of [`client`].
pub fn client_config(tls: Arc<rustls::ClientConfig>) -> Result<ClientConfig, NoInitialCipherSuite> {
    let crypto = QuicClientConfig::try_from(tls)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(client()));
    Ok(config)
}

/// No streams, no datagrams, and windows in bytes. Packets stay at 1,200 bytes, which every path carries:
/// path MTU discovery would cost each of thousands of sessions a dozen packets and speed nothing up.
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

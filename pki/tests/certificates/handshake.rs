//! TLS handshakes in memory.

use std::{sync::Arc, time::Duration};

use cframe_pki::tls::SERVER_NAME;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, Error, ServerConfig, ServerConnection,
    SideData, client::Resumption, pki_types::UnixTime, time_provider::TimeProvider,
};

use crate::NOW;

/// Both ends after a handshake, their errors, and all bytes that went over the wire.
pub(crate) struct Outcome {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) client_error: Option<Error>,
    pub(crate) server_error: Option<Error>,
    pub(crate) wire: Vec<u8>,
}

impl Outcome {
    pub(crate) fn connected(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }
}

/// Runs a handshake, and lets the client read the tickets that the server sends after it.
pub(crate) fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Outcome {
    let name = SERVER_NAME.try_into().unwrap();
    let mut outcome = Outcome {
        client: ClientConnection::new(client.clone(), name).unwrap(),
        server: ServerConnection::new(server.clone()).unwrap(),
        client_error: None,
        server_error: None,
        wire: Vec::new(),
    };
    let Outcome { client, server, client_error, server_error, wire } = &mut outcome;
    while client.wants_write() || server.wants_write() {
        flow(client, server, server_error, wire);
        flow(server, client, client_error, wire);
    }
    outcome
}

fn flow<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    error: &mut Option<Error>,
    wire: &mut Vec<u8>,
) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    wire.extend_from_slice(&bytes);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() && error.is_none() {
        to.read_tls(&mut rest).unwrap();
        *error = to.process_new_packets().err();
    }
}

/// Sets the time of both configurations to [`NOW`].
pub(crate) fn pinned_clock(
    mut client: ClientConfig,
    mut server: ServerConfig,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    client.time_provider = Arc::new(PinnedClock);
    server.time_provider = Arc::new(PinnedClock);
    (Arc::new(client), Arc::new(server))
}

/// A client that stores every session ticket, and sends early data if the server accepts it.
pub(crate) fn resuming(mut client: ClientConfig) -> ClientConfig {
    client.resumption = Resumption::in_memory_sessions(16);
    client.enable_early_data = true;
    client
}

#[derive(Debug)]
struct PinnedClock;

impl TimeProvider for PinnedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(NOW)))
    }
}

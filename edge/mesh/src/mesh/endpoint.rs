//! The QUIC endpoint: its configuration, and its own responses to strangers.

use std::{collections::VecDeque, sync::Arc};

use quinn_proto::{ClientConfig, Endpoint, ServerConfig, Transmit};

use crate::{
    config::{Config, ConfigError, Congestion},
    transport::{self, PathSettings},
};

/// Responses that wait for the socket.
const MAX_RESPONSES: usize = 256;

pub(super) struct QuicEndpoint {
    pub(super) endpoint: Endpoint,
    client: ClientConfig,
    server: ServerConfig,
    path: PathSettings,
    /// Responses that belong to no link: Retry, stateless reset, refusal.
    responses: VecDeque<(Transmit, Vec<u8>)>,
    /// Whether the next datagram to send is a response, if there is one.
    response_turn: bool,
    stopped: bool,
}

impl QuicEndpoint {
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        let endpoint = Arc::new(transport::endpoint(config)?);
        let path = PathSettings {
            underlay_mtu: config.underlay_mtu,
            tun_mtu: config.tun_mtu,
            congestion: config.congestion,
        };
        let mut quic = Self {
            endpoint: Endpoint::new(endpoint, None, true, None),
            client: transport::client(config),
            server: transport::server(config),
            path,
            responses: VecDeque::new(),
            response_turn: false,
            stopped: false,
        };
        quic.configure();
        Ok(quic)
    }

    #[inline]
    pub(super) fn tun_mtu(&self) -> usize {
        self.path.tun_mtu.into()
    }

    pub(super) fn set_tun_mtu(&mut self, mtu: u16) {
        self.path.tun_mtu = mtu;
        self.configure();
    }

    pub(super) fn set_congestion(&mut self, congestion: Congestion) {
        self.path.congestion = congestion;
        self.configure();
    }

    /// Applies [`PathSettings`] to all future connections.
    fn configure(&mut self) {
        let transport = Arc::new(transport::transport(&self.path));
        self.client.transport_config(transport.clone());
        self.server.transport_config(transport);
        self.endpoint.set_server_config(Some(Arc::new(self.server.clone())));
    }

    pub(super) fn client(&self) -> ClientConfig {
        self.client.clone()
    }

    /// No connection is accepted or dialled from now on.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn queue_response(&mut self, transmit: Transmit, mut bytes: Vec<u8>) {
        bytes.truncate(transmit.size);
        if self.responses.len() < MAX_RESPONSES {
            self.responses.push_back((transmit, bytes));
        }
    }

    /// A response, if it is not the links' turn: they take turns, so that a flood of responses does
    /// not delay links.
    #[inline]
    pub(super) fn response_in_turn(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.response_turn = !self.response_turn;
        if self.response_turn { self.next_response(buf) } else { None }
    }

    #[inline]
    pub(super) fn next_response(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = self.responses.pop_front()?;
        buf.extend_from_slice(&bytes);
        Some(transmit)
    }

    pub(super) fn responses(&self) -> usize {
        self.responses.len()
    }
}

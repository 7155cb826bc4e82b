//! QUIC without cryptography: the messages and decisions of a handshake, at no cost.
//!
//! Flights have the order and about the sizes of TLS 1.3 with X25519MLKEM768. Each side sends its
//! certificate chain, and the other's judge decides when rustls would call its verifier. Packets
//! have a keyed checksum in place of the AEAD's tag, so that changed packets, and those of other
//! connections, are detected. All messages have a fixed size: those of TLS vary by a byte or two
//! with every signature, and no run could be repeated.

use std::{any::Any, sync::Arc};

use cframe_pki::{CertificateDer, verifier::Refusal};
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{
        ClientConfig, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig,
        Session, UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};

mod keys;

use keys::{Secret, checksum, keys};

/// Decides about a peer's chain, leaf first.
pub(crate) type Judge = dyn Fn(&[CertificateDer<'static>]) -> Result<(), Refusal> + Send + Sync;

/// The configuration of one edge, for both sides of a handshake.
pub(crate) struct NullCrypto {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) judge: Box<Judge>,
}

/// A ClientHello with two key shares, one of them of ML-KEM, and a ServerHello with one.
const HELLO: usize = 1400;
/// Two certificates, a signature over the handshake, and a Finished message.
const PROOF: usize = 1400;

impl NullCrypto {
    fn session(self: Arc<Self>, side: Side, params: &TransportParameters) -> Box<dyn Session> {
        let mut ours = Vec::new();
        params.write(&mut ours);
        let stage = if side.is_client() { Stage::SendHello } else { Stage::AwaitHello };
        Box::new(NullSession {
            config: self,
            side,
            stage,
            ours: message(&[ours], HELLO),
            theirs: Vec::new(),
            inbox: Vec::new(),
            secret: Secret::default(),
            chain: None,
        })
    }
}

impl ClientConfig for NullCrypto {
    fn start_session(
        self: Arc<Self>,
        _version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        Ok(self.session(Side::Client, params))
    }
}

impl ServerConfig for NullCrypto {
    fn initial_keys(
        &self,
        _version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        Ok(keys(Secret::of(dst_cid), Side::Server))
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(orig_dst_cid, &[packet])
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        self.session(Side::Server, params)
    }
}

/// The next step of a side. A client starts at `SendHello`, a server at `AwaitHello`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// A client sends its hello.
    SendHello,
    /// The other side's hello is missing.
    AwaitHello,
    /// Both hellos are known: Handshake keys.
    HandshakeKeys,
    /// A client waits for the server's proof.
    AwaitProof,
    /// Send the proof: 1-RTT keys.
    SendProof,
    /// A server waits for the client's proof.
    AwaitClient,
    Done,
}

struct NullSession {
    config: Arc<NullCrypto>,
    side: Side,
    stage: Stage,
    ours: Vec<u8>,
    theirs: Vec<u8>,
    inbox: Vec<u8>,
    secret: Secret,
    chain: Option<Vec<CertificateDer<'static>>>,
}

impl NullSession {
    /// Handles one message: a hello or a proof, depending on the stage.
    fn handle_message(&mut self, message: &[u8]) -> Result<(), TransportError> {
        match self.stage {
            Stage::AwaitHello => {
                self.theirs = message.to_vec();
                let (client, server) = match self.side {
                    Side::Client => (&self.ours, &self.theirs),
                    Side::Server => (&self.theirs, &self.ours),
                };
                self.secret = Secret::of(client).and(server);
                self.stage = Stage::HandshakeKeys;
            }
            Stage::AwaitProof | Stage::AwaitClient => {
                let chain = parts(message).into_iter().map(CertificateDer::from).collect();
                self.judge(chain)?;
                let client = self.side.is_client();
                self.stage = if client { Stage::SendProof } else { Stage::Done };
            }
            Stage::SendHello | Stage::HandshakeKeys | Stage::SendProof | Stage::Done => {
                return Err(failure(
                    TransportErrorCode::PROTOCOL_VIOLATION,
                    "a message out of turn",
                ));
            }
        }
        Ok(())
    }

    fn judge(&mut self, chain: Vec<CertificateDer<'static>>) -> Result<(), TransportError> {
        (self.config.judge)(&chain).map_err(|refusal| {
            let error = rustls::Error::from(refusal.clone());
            let alert = if let rustls::Error::InvalidCertificate(error) = error {
                error.into()
            } else {
                rustls::AlertDescription::AccessDenied
            };
            failure(TransportErrorCode::crypto(alert.into()), &refusal.to_string())
        })?;
        self.chain = Some(chain);
        Ok(())
    }

    fn next_message_len(&self) -> usize {
        if self.stage == Stage::AwaitHello { HELLO } else { PROOF }
    }
}

impl Session for NullSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        keys(Secret::of(dst_cid), side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.chain.clone().map(|chain| -> Box<dyn Any> { Box::new(chain) })
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.stage != Stage::Done
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inbox.extend_from_slice(buf);
        while self.inbox.len() >= self.next_message_len() {
            let message: Vec<_> = self.inbox.drain(..self.next_message_len()).collect();
            self.handle_message(&message)?;
        }
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(params) = parts(&self.theirs).into_iter().next() else { return Ok(None) };
        Ok(Some(TransportParameters::read(self.side, &mut params.as_slice())?))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let client = self.side.is_client();
        match self.stage {
            Stage::SendHello => {
                buf.extend_from_slice(&self.ours);
                self.stage = Stage::AwaitHello;
                None
            }
            Stage::HandshakeKeys => {
                if !client {
                    buf.extend_from_slice(&self.ours);
                }
                self.stage = if client { Stage::AwaitProof } else { Stage::SendProof };
                Some(keys(self.secret, self.side))
            }
            Stage::SendProof => {
                let chain: Vec<_> = self.config.chain.iter().map(|der| der.to_vec()).collect();
                buf.extend(message(&chain, PROOF));
                self.stage = if client { Stage::Done } else { Stage::AwaitClient };
                self.secret = self.secret.next();
                Some(keys(self.secret, self.side))
            }
            Stage::AwaitHello | Stage::AwaitProof | Stage::AwaitClient | Stage::Done => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.secret = self.secret.next();
        Some(keys(self.secret, self.side).packet)
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        payload
            .split_last_chunk()
            .is_some_and(|(token, tag)| retry_tag(orig_dst_cid, &[header, token]) == *tag)
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

fn failure(code: TransportErrorCode, reason: &str) -> TransportError {
    TransportError { code, frame: None, reason: reason.to_owned() }
}

/// A message of `size` bytes: each part after its length, then padding.
fn message(parts: &[Vec<u8>], size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    for part in parts {
        bytes.extend((part.len() as u16).to_be_bytes());
        bytes.extend(part);
    }
    assert!(bytes.len() + 2 <= size, "{} bytes", bytes.len());
    bytes.resize(size, 0);
    bytes
}

fn parts(mut message: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let Some((len, rest)) = message.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len));
        if len == 0 || len > rest.len() {
            break;
        }
        parts.push(rest[..len].to_vec());
        message = &rest[len..];
    }
    parts
}

fn retry_tag(orig_dst_cid: &ConnectionId, packet: &[&[u8]]) -> [u8; 16] {
    // Callers split the packet at different places; the tag covers all of it.
    checksum(Secret::of(orig_dst_cid), &[&packet.concat()])
}

//! An edge that misbehaves: it has any certificate and sends any packet, by quinn instead of the real core.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cframe_pki::bundle::{DenyList, TrustBundle};
use cframe_pki::identity::{MeshName, SpiffeId};
use cframe_pki::issue::{IssuingCa, RootCa, VerifiedCsr, read_certificate};
use cframe_pki::key::PrivateKey;
use cframe_pki::tls::{self, Credentials, LiveCredentials};
use cframe_pki::unix_now;
use cframe_pki::verifier::{PeerVerifier, Policy, Trust};
use cframe_testbed::Host;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Issues any certificate, as a thief of an issuing CA could.
#[derive(Debug)]
pub(crate) struct Forge {
    pub(crate) ca: IssuingCa,
    root: rustls::pki_types::CertificateDer<'static>,
}

impl Forge {
    /// Uses the CA in a controller's data directory.
    pub(crate) fn of(controller: &Path) -> Self {
        let dir = controller.join("ca");
        let root = read_certificate(&dir.join(RootCa::CERTIFICATE_FILE)).unwrap();
        Self { ca: IssuingCa::load(&dir).unwrap(), root }
    }

    /// Creates a CA of another mesh with the same name.
    pub(crate) fn other_mesh(name: &MeshName) -> Self {
        let root = RootCa::generate(name, unix_now()).unwrap();
        let ca = root.issuing_ca(unix_now()).unwrap();
        Self { ca, root: root.certificate().clone() }
    }

    pub(crate) fn mesh(&self) -> MeshName {
        self.ca.mesh().clone()
    }

    /// Issues a certificate that is valid for an hour.
    pub(crate) fn certify(&self, id: &SpiffeId) -> Credentials {
        self.certify_at(id, Duration::from_secs(3600), unix_now())
    }

    /// Issues a certificate at the time `now`, in seconds since 1970.
    pub(crate) fn certify_at(&self, id: &SpiffeId, lifetime: Duration, now: u64) -> Credentials {
        let key = PrivateKey::generate().unwrap();
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let issued = self.ca.issue(&csr, id, lifetime, now).unwrap();
        Credentials { chain: vec![issued.der, self.ca.certificate().clone()], key }
    }

    /// A verifier that accepts any certificate of this mesh.
    pub(crate) fn any_peer(&self) -> PeerVerifier {
        let bundle = TrustBundle { roots: vec![self.root.clone()], ..TrustBundle::default() };
        let trust = Trust::new(self.mesh(), bundle, DenyList::default()).unwrap();
        PeerVerifier::new(trust, Policy::Custom(Arc::new(|_| Ok(()))))
    }
}

/// A QUIC endpoint on a host with any credentials. It greets every peer that connects.
#[derive(Debug)]
pub(crate) struct Impostor {
    endpoint: quinn::Endpoint,
    runtime: tokio::runtime::Runtime,
}

impl Impostor {
    /// Binds a free port; `victims` is the mesh that it trusts.
    pub(crate) fn new(host: &Host, victims: &Forge, credentials: Credentials) -> Self {
        Self::start(host, victims, credentials, 0, false)
    }

    /// Binds a free port, stores session tickets, and sends early data if it has one.
    pub(crate) fn resuming(host: &Host, victims: &Forge, credentials: Credentials) -> Self {
        Self::start(host, victims, credentials, 0, true)
    }

    /// Binds a port at which others expect an edge.
    pub(crate) fn listening(
        host: &Host,
        victims: &Forge,
        credentials: Credentials,
        port: u16,
    ) -> Self {
        Self::start(host, victims, credentials, port, false)
    }

    fn start(
        host: &Host,
        victims: &Forge,
        credentials: Credentials,
        port: u16,
        resume: bool,
    ) -> Self {
        let socket =
            host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let credentials = LiveCredentials::new(credentials).unwrap();
        let server = tls::link_server(&credentials, victims.any_peer());
        let server = QuicServerConfig::try_from(server).unwrap();
        let mut client = tls::link_client(&credentials, victims.any_peer());
        if resume {
            client.resumption = Resumption::in_memory_sessions(16);
            client.enable_early_data = true;
        }
        let client = QuicClientConfig::try_from(client).unwrap();
        let guard = runtime.enter();
        let mut endpoint = quinn::Endpoint::new(
            quinn::EndpointConfig::default(),
            Some(quinn::ServerConfig::with_crypto(Arc::new(server))),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(client)));
        drop(guard);
        let accepting = endpoint.clone();
        runtime.spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        drop(exchange_hellos(&connection).await);
                        connection.closed().await;
                    }
                });
            }
        });
        Self { endpoint, runtime }
    }

    /// Dials an edge, and returns once the edge has accepted the link with its hello.
    ///
    /// # Errors
    /// With the edge's reason if it refuses.
    pub(crate) fn dial(&self, to: SocketAddr) -> Result<ForgedLink<'_>> {
        let connection: Result<_> = self.runtime.block_on(async {
            let connect = async {
                let connection = self.endpoint.connect(to, tls::SERVER_NAME)?.await?;
                exchange_hellos(&connection).await?;
                anyhow::Ok(connection)
            };
            tokio::time::timeout(DIAL_TIMEOUT, connect)
                .await
                .context("no answer within the timeout")?
        });
        Ok(ForgedLink { connection: connection?, _impostor: self })
    }

    /// Whether it could send early data, for which only a resumed session has keys.
    pub(crate) fn can_resume(&self, to: SocketAddr) -> bool {
        let _guard = self.runtime.enter();
        self.endpoint.connect(to, tls::SERVER_NAME).unwrap().into_0rtt().is_ok()
    }
}

/// Sends the hello of `cframe-mesh/1` (version, boot id, epoch), and reads the other side's, which it sends to a peer only.
async fn exchange_hellos(connection: &quinn::Connection) -> Result<()> {
    let mut hello = [0; 25];
    hello[0] = 1;
    hello[1..17].copy_from_slice(&rand::random::<[u8; 16]>());
    hello[24] = 1;
    let mut send = connection.open_uni().await?;
    send.write_all(&hello).await?;
    let mut theirs = [0; 25];
    connection.accept_uni().await?.read_exact(&mut theirs).await?;
    ensure!(theirs[0] == 1, "a hello of version {}", theirs[0]);
    Ok(())
}

#[derive(Debug)]
pub(crate) struct ForgedLink<'a> {
    connection: quinn::Connection,
    /// Its runtime drives the connection.
    _impostor: &'a Impostor,
}

impl ForgedLink<'_> {
    /// Sends bytes in place of an inner packet.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.connection.send_datagram(Bytes::copy_from_slice(bytes)).unwrap();
    }
}

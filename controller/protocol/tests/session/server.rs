//! A server that the test scripts, and an edge's session that connects to it.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use cframe_protocol::{
    frame::{MAX_FRAME, Message},
    session::{
        Client, Command, EdgeSession, Event, FrameReader, FrameWriter, SessionError, transport,
    },
    v1::{Change, Desired, EdgeHello, Endpoint, FromEdge, Update, Version},
};
use quinn::{Connection, ConnectionError, SendStream};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(TIMEOUT, future).await.unwrap_or_else(|_| panic!("nothing within {TIMEOUT:?}"))
}

pub(crate) struct Server(pub(crate) quinn::Endpoint);

/// An edge's session as the server sees it.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    pub(crate) hello: EdgeHello,
}

impl Server {
    pub(crate) fn control(tls: Arc<rustls::ServerConfig>) -> Self {
        Self::new(tls, transport::control_server())
    }

    pub(crate) fn enroll(tls: Arc<rustls::ServerConfig>) -> Self {
        Self::new(tls, transport::enroll_server())
    }

    fn new(tls: Arc<rustls::ServerConfig>, transport: quinn::TransportConfig) -> Self {
        let config = transport::server_config(tls, transport).unwrap();
        Self(quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap())
    }

    pub(crate) fn address(&self) -> Endpoint {
        self.0.local_addr().unwrap().into()
    }

    /// The next connection, once its handshake is done.
    pub(crate) async fn connection(&self) -> Result<Connection, ConnectionError> {
        soon(self.0.accept()).await.unwrap().await
    }

    /// The next edge, after its hello.
    pub(crate) async fn edge(&self) -> Peer {
        let connection = self.connection().await.unwrap();
        let (send, receive) = soon(connection.accept_bi()).await.unwrap();
        let mut reader = FrameReader::new(receive, MAX_FRAME);
        let Some(FromEdge::Hello(hello)) = soon(reader.next()).await.unwrap() else {
            panic!("no hello");
        };
        Peer { connection, reader, writer: FrameWriter::new(send), hello }
    }

    /// The next edge's stream, to write anything to, after the hello.
    pub(crate) async fn raw(&self) -> (Connection, SendStream, FrameReader) {
        let connection = self.connection().await.unwrap();
        let (send, receive) = soon(connection.accept_bi()).await.unwrap();
        let mut reader = FrameReader::new(receive, MAX_FRAME);
        assert!(matches!(soon(reader.next()).await.unwrap(), Some(FromEdge::Hello(_))));
        (connection, send, reader)
    }
}

impl Peer {
    pub(crate) async fn send<M: Message>(&mut self, message: &M) {
        soon(self.writer.send(message)).await.unwrap();
    }

    /// The next message that is no ping.
    pub(crate) async fn next(&mut self) -> FromEdge {
        loop {
            match soon(self.reader.next()).await.unwrap() {
                Some(FromEdge::Ping(_)) => {}
                Some(message) => return message,
                None => panic!("the edge has ended the stream"),
            }
        }
    }

    pub(crate) async fn closed(&self) -> ConnectionError {
        soon(self.connection.closed()).await
    }
}

pub(crate) struct Edge {
    events: mpsc::Receiver<Event>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Edge {
    pub(crate) fn start(
        addresses: Vec<Endpoint>,
        tls: Arc<rustls::ClientConfig>,
        have: Option<Desired>,
    ) -> Self {
        let client = Client::new(addresses, tls);
        Self::run(EdgeSession::new(client, have.map(Arc::new), "0.1.0", [7; 16]))
    }

    pub(crate) fn run(session: EdgeSession) -> Self {
        let (events_in, events) = mpsc::channel(4);
        let (commands, commands_out) = mpsc::channel(4);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(session.run(events_in, commands_out, shutdown.clone()));
        Self { events, commands, shutdown, task }
    }

    pub(crate) async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }

    pub(crate) async fn connected(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Connected { .. }), "{event:?}");
    }

    pub(crate) async fn disconnected(&mut self) -> SessionError {
        match self.event().await {
            Event::Disconnected(error) => error,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn desired(&mut self) -> Arc<Desired> {
        match self.event().await {
            Event::Desired { state, .. } => state,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn command(&self, command: Command) {
        soon(self.commands.send(command)).await.unwrap();
    }

    /// Stops it, and sees that it ends.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        soon(self.task).await.unwrap();
    }
}

pub(crate) fn version(namespace: u64) -> Version {
    Version { epoch: 1, mesh: 1, namespace }
}

pub(crate) fn update(from: Option<u64>, to: u64, prefixes: &[&str], last: bool) -> Update {
    let change =
        |net: &&str| Change::Prefix { net: net.parse().unwrap(), owner: "idc".parse().unwrap() };
    Update {
        from: from.map(version),
        to: version(to),
        changes: prefixes.iter().map(change).collect(),
        last,
    }
}

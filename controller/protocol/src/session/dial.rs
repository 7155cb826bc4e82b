//! Dialling controllers.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use cframe_pki::{CertificateDer, identity::PeerIdentity, tls::SERVER_NAME, verifier::Refusal};
use quinn::{Connection, EndpointConfig, TokioRuntime, crypto::rustls::NoInitialCipherSuite};
use rand::seq::SliceRandom;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{CertificateAlert, CloseCode, transport};
use crate::v1::Endpoint;

/// Between the starts of two attempts, unless the earlier one fails sooner.
const STAGGER: Duration = Duration::from_millis(250);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// QUIC retransmits after 0.3, 0.9, 2.1 and 4.5 s. With a time-out just above 4.5 s the controller would
/// start handshakes that are given up at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// Delay before an overloaded controller is dialled again: half to all of this, and it doubles.
const MIN_BUSY_DELAY: Duration = Duration::from_millis(100);
const MAX_BUSY_DELAY: Duration = Duration::from_secs(1);

/// Addresses of controllers, and this client's TLS configuration. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    /// DNS names are resolved in every attempt.
    pub addresses: Vec<Endpoint>,
    /// From `cframe-pki`, for the port of `addresses`.
    pub tls: Arc<rustls::ClientConfig>,
    /// The sockets' mark (`SO_MARK`, socket(7)), which keeps an edge's own traffic out of its tunnel.
    /// Setting it needs `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
}

/// A connection with a socket of its own.
#[derive(Debug)]
pub struct Connected {
    /// The server's certificate is verified. Whether the server accepts ours is only known with its first
    /// answer.
    pub connection: Connection,
    pub address: Endpoint,
    endpoint: quinn::Endpoint,
}

/// No address led to a controller.
#[derive(Debug)]
pub struct Unreachable {
    pub attempts: Vec<(Endpoint, DialError)>,
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("the name could not be resolved: {0}")]
    Resolve(#[source] io::Error),
    #[error("no UDP socket: {0}")]
    Socket(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] NoInitialCipherSuite),
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// Either side may have refused the other.
    #[error("{}", handshake_text(.0))]
    Handshake(#[from] quinn::ConnectionError),
    #[error("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Silent,
    #[error("a bug in this program has ended the attempt")]
    Panicked,
}

/// rustls prints the reasons of our own verifier in its debug form, or with times that nobody can read.
fn handshake_text(error: &quinn::ConnectionError) -> String {
    if let Some(alert) = CertificateAlert::of(error) {
        return format!("it refuses this certificate: {alert}");
    }
    let text = error.to_string();
    match text {
        _ if text.contains("PinMismatch") => Refusal::PinMismatch.to_string(),
        _ if text.contains("NotValidYet") || text.contains("not valid yet") => {
            "its certificate is not valid yet by this host's clock: set the clock if it is behind"
                .to_owned()
        }
        _ if text.contains("certificate expired") => {
            "its certificate has expired by this host's clock: set the clock if it is ahead"
                .to_owned()
        }
        _ => text,
    }
}

impl DialError {
    /// Whether the server is overloaded (RFC 9000 §20.1, CONNECTION_REFUSED). A later attempt may succeed.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Handshake(quinn::ConnectionError::ConnectionClosed(close)) => {
                close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED
            }
            Self::Handshake(error) => CloseCode::of(error) == Some(CloseCode::Busy),
            Self::Resolve(_)
            | Self::Socket(_)
            | Self::Tls(_)
            | Self::Connect(_)
            | Self::Silent
            | Self::Panicked => false,
        }
    }
}

impl Unreachable {
    /// Whether a controller answered that it is overloaded.
    pub fn is_busy(&self) -> bool {
        self.attempts.iter().any(|(_, error)| error.is_busy())
    }
}

impl Client {
    pub fn new(addresses: Vec<Endpoint>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { addresses, tls, mark: None }
    }

    /// Dials all addresses in random order, a quarter second apart, and returns the first controller that
    /// answers. Time-outs are 5 s for DNS and 4 s for the handshake.
    ///
    /// Cancel-safe: dropping the future ends all attempts.
    pub async fn connect(&self) -> Result<Connected, Unreachable> {
        self.connect_elsewhere(None).await
    }

    /// Like [`connect`](Self::connect), and retries for as long as a controller answers that it is
    /// overloaded. `busy` is called each time. The caller sets the time-out.
    pub async fn connect_when_free(
        &self,
        mut busy: impl FnMut(Unreachable),
    ) -> Result<Connected, Unreachable> {
        let mut delay = MIN_BUSY_DELAY;
        loop {
            match self.connect().await {
                Err(unreachable) if unreachable.is_busy() => busy(unreachable),
                other => return other,
            }
            sleep(delay.mul_f64(rand::random_range(0.5..=1.0))).await;
            delay = MAX_BUSY_DELAY.min(2 * delay);
        }
    }

    /// Like [`connect`](Self::connect), with one address tried after all others.
    pub async fn connect_elsewhere(
        &self,
        last: Option<&Endpoint>,
    ) -> Result<Connected, Unreachable> {
        let mut addresses = self.addresses.clone();
        // Spreads the edges, which all have the same list.
        addresses.shuffle(&mut rand::rng());
        addresses.sort_by_key(|address| Some(address) == last);
        let attempts = addresses.into_iter().map(|address| {
            let client = self.clone();
            async move { client.dial(&address).await.map_err(|errors| (address, errors)) }
        });
        race(attempts).await.map_err(|failed| Unreachable {
            attempts: failed
                .into_iter()
                .flatten()
                .flat_map(|(address, errors)| {
                    errors.into_iter().map(move |error| (address.clone(), error))
                })
                .collect(),
        })
    }

    async fn dial(self, named: &Endpoint) -> Result<Connected, Vec<DialError>> {
        let addresses = resolve(named).await.map_err(|error| vec![DialError::Resolve(error)])?;
        let attempts = addresses.into_iter().map(|address| {
            let client = self.clone();
            let named = named.clone();
            async move { client.dial_one(named, address).await }
        });
        let known = |error: Option<_>| error.unwrap_or(DialError::Panicked);
        race(attempts).await.map_err(|errors| errors.into_iter().map(known).collect())
    }

    async fn dial_one(self, named: Endpoint, address: SocketAddr) -> Result<Connected, DialError> {
        let socket = bind(address, self.mark).map_err(DialError::Socket)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = quinn::Endpoint::new(EndpointConfig::default(), None, socket, runtime)
            .map_err(DialError::Socket)?;
        let config = transport::client_config(self.tls)?;
        let connecting = endpoint.connect_with(config, address, SERVER_NAME)?;
        let connection =
            timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| DialError::Silent)??;
        Ok(Connected { connection, address: named, endpoint })
    }
}

impl Connected {
    pub(super) fn controller(&self) -> Option<PeerIdentity> {
        let any = self.connection.peer_identity()?;
        let chain = any.downcast_ref::<Vec<CertificateDer<'static>>>()?;
        PeerIdentity::from_chain(chain).ok()
    }

    /// Closes the connection, and returns when the close has left this host. Its arrival cannot be
    /// awaited: a close is not acknowledged (RFC 9000 §10.2).
    pub async fn close(self, code: CloseCode) {
        const POLL_INTERVAL: Duration = Duration::from_micros(200);
        const TIMEOUT: Duration = Duration::from_millis(100);
        if self.connection.close_reason().is_some() {
            return;
        }
        // The next datagram is the close.
        let before = self.connection.stats().udp_tx.datagrams;
        self.connection.close(code.into(), code.to_string().as_bytes());
        let sent = async {
            sleep(POLL_INTERVAL).await;
            while self.connection.stats().udp_tx.datagrams == before {
                sleep(POLL_INTERVAL).await;
            }
        };
        let left = async {
            tokio::select! {
                () = sent => {}
                () = self.endpoint.wait_idle() => {}
            }
        };
        let _ = timeout(TIMEOUT, left).await;
    }
}

async fn resolve(address: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    if let Some(ip) = address.ip() {
        return Ok(vec![SocketAddr::new(ip, address.port())]);
    }
    let lookup = tokio::net::lookup_host((address.host(), address.port()));
    let found = timeout(RESOLVE_TIMEOUT, lookup).await??;
    Ok(found.collect())
}

fn bind(peer: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let (domain, any): (_, IpAddr) = match peer {
        SocketAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok(socket.into())
}

/// Runs attempts and returns the first success; the other attempts are dropped. Each starts [`STAGGER`]
/// after the previous one, or as soon as all earlier ones have failed (RFC 8305 §5). Fails with all
/// failures, `None` for an attempt that panicked.
async fn race<T, E, F>(attempts: impl Iterator<Item = F>) -> Result<T, Vec<Option<E>>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut attempts = attempts.fuse();
    let mut running = JoinSet::new();
    let mut failures = Vec::new();
    let mut next_start = Instant::now();
    let mut more = true;
    loop {
        if more && (running.is_empty() || Instant::now() >= next_start) {
            match attempts.next() {
                Some(attempt) => drop(running.spawn(attempt)),
                None => more = false,
            }
            next_start = Instant::now() + STAGGER;
        }
        tokio::select! {
            ended = running.join_next(), if !running.is_empty() => match ended {
                Some(Ok(Ok(winner))) => return Ok(winner),
                Some(Ok(Err(error))) => failures.push(Some(error)),
                Some(Err(_)) => failures.push(None),
                None => {}
            },
            () = tokio::time::sleep_until(next_start), if more => {}
            else => return Err(failures),
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts.is_empty() {
            return f.write_str("no controller can be reached: no address is known");
        }
        f.write_str("no controller can be reached: ")?;
        for (index, (address, error)) in self.attempts.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unreachable {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends after `millis` with its number.
    async fn attempt(number: u32, millis: u64, wins: bool) -> Result<u32, u32> {
        sleep(Duration::from_millis(millis)).await;
        if wins { Ok(number) } else { Err(number) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_doesn_t_delay_the_next() {
        let start = Instant::now();
        let winner = race([attempt(0, 5000, false), attempt(1, 10, true)].into_iter()).await;
        assert_eq!(winner, Ok(1));
        assert_eq!(start.elapsed(), STAGGER + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_lets_the_next_start_at_once() {
        let start = Instant::now();
        let winner = race([attempt(0, 10, false), attempt(1, 10, true)].into_iter()).await;
        assert_eq!(winner, Ok(1));
        assert_eq!(start.elapsed(), Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_may_still_win() {
        let attempts = [attempt(0, 300, true), attempt(1, 100, true), attempt(2, 1, true)];
        assert_eq!(race(attempts.into_iter()).await, Ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_returned_in_the_order_they_came() {
        let attempts = [attempt(0, 900, false), attempt(1, 10, false), attempt(2, 10, false)];
        assert_eq!(race(attempts.into_iter()).await, Err(vec![Some(1), Some(2), Some(0)]));
        let none: [std::future::Ready<Result<u32, u32>>; 0] = [];
        assert_eq!(race(none.into_iter()).await, Err(Vec::new()));
    }
}

//! Endpoints to addresses. A name whose lookup fails keeps the addresses that it had.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_protocol::v1::Endpoint;
use tokio::{task::JoinSet, time::timeout};
use tracing::debug;

use crate::judge::links::NoAddress;

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time between two lookups of one name, however many links fail.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: HashMap<Endpoint, Vec<SocketAddr>>,
    /// Why the last lookup of a name failed.
    failed: HashMap<Endpoint, NoAddress>,
    started: HashMap<Endpoint, Instant>,
    in_progress: HashSet<Endpoint>,
    lookups: JoinSet<(Endpoint, io::Result<Vec<SocketAddr>>)>,
}

impl Resolver {
    /// Addresses of endpoints, as far as they are known, each once and in the endpoints' order.
    pub(super) fn addresses(&self, endpoints: &[Endpoint]) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for endpoint in endpoints {
            match endpoint.ip() {
                Some(ip) => addresses.push(SocketAddr::new(ip.to_canonical(), endpoint.port())),
                None => addresses.extend(self.known.get(endpoint).into_iter().flatten()),
            }
        }
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        addresses
    }

    /// Starts lookups of the names among these endpoints, and forgets all other names.
    pub(super) fn look_up_only<'a>(&mut self, endpoints: impl Iterator<Item = &'a Endpoint>) {
        let names: HashSet<&Endpoint> = endpoints.filter(|name| name.ip().is_none()).collect();
        self.known.retain(|name, _| names.contains(name));
        self.started.retain(|name, _| names.contains(name));
        self.failed.retain(|name, _| names.contains(name));
        names.into_iter().for_each(|name| self.look_up(name));
    }

    /// The names among these endpoints whose last lookup failed.
    pub(super) fn unresolved(&self, endpoints: &[Endpoint]) -> Vec<(Endpoint, NoAddress)> {
        let failed = |name: &Endpoint| Some((name.clone(), self.failed.get(name)?.clone()));
        endpoints.iter().filter_map(failed).collect()
    }

    /// Starts lookups of the names whose last lookup failed.
    pub(super) fn retry_failed(&mut self) {
        let failed: Vec<Endpoint> = self.failed.keys().cloned().collect();
        failed.iter().for_each(|name| self.look_up(name));
    }

    /// Starts a lookup of a name if the last one was started this long ago.
    pub(super) fn look_up_after(&mut self, endpoint: &Endpoint, interval: Duration) {
        if self.started.get(endpoint).is_none_or(|at| at.elapsed() >= interval) {
            self.look_up(endpoint);
        }
    }

    /// Starts a lookup of a name, unless one was started a moment ago. [`next`](Self::next) has the
    /// result.
    pub(super) fn look_up(&mut self, endpoint: &Endpoint) {
        let now = Instant::now();
        let started = self.started.get(endpoint);
        let recent = started.is_some_and(|at| now.duration_since(*at) < LOOKUP_INTERVAL);
        if endpoint.ip().is_some() || recent || !self.in_progress.insert(endpoint.clone()) {
            return;
        }
        self.started.insert(endpoint.clone(), now);
        let endpoint = endpoint.clone();
        self.lookups.spawn(async move {
            let found = resolve(&endpoint).await;
            (endpoint, found)
        });
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Waits for the next lookup; its name if the addresses have changed. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Endpoint> {
        let (endpoint, found) = self.lookups.join_next().await?.ok()?;
        self.in_progress.remove(&endpoint);
        match found {
            Ok(found) => {
                self.failed.remove(&endpoint);
                let before = self.known.insert(endpoint.clone(), found.clone());
                (before.as_ref() != Some(&found)).then_some(endpoint)
            }
            Err(error) => {
                debug!(%endpoint, %error, "not resolved");
                let why = no_address(&error);
                self.failed.insert(endpoint, why);
                None
            }
        }
    }
}

async fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::net::lookup_host((endpoint.host(), endpoint.port()));
    let found = timeout(LOOKUP_TIMEOUT, lookup).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let mut found: Vec<SocketAddr> = found.map(canonical).collect();
    // Servers rotate their answers; another order is no change.
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// getaddrinfo(3) says "temporary failure" (`EAI_AGAIN`) if no server answers. Its texts are all that the
/// standard library returns.
fn no_address(error: &io::Error) -> NoAddress {
    let text = error.to_string();
    if error.kind() == io::ErrorKind::TimedOut || text.contains("Temporary failure") {
        return NoAddress::Silent;
    }
    let plain = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    NoAddress::Unknown(plain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_no_lookup_and_names_wait_for_theirs() {
        let mut resolver = Resolver::default();
        let endpoints: Vec<Endpoint> =
            ["203.0.113.7:58423", "gw.example.com:58423", "[2001:db8::7]:1"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
        assert_eq!(resolver.addresses(&endpoints).len(), 2);
        let found =
            vec!["203.0.113.8:58423".parse().unwrap(), "203.0.113.7:58423".parse().unwrap()];
        resolver.known.insert(endpoints[1].clone(), found);
        let addresses = resolver.addresses(&endpoints);
        assert_eq!(addresses.len(), 3, "each address once: {addresses:?}");
        assert_eq!(addresses[0], "203.0.113.7:58423".parse().unwrap());
    }
}

//! Endpoints to addresses. A name that cannot be looked up keeps the addresses that it had.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_protocol::v1::Endpoint;
use tokio::{task::JoinSet, time::timeout};
use tracing::debug;

const LIMIT: Duration = Duration::from_secs(5);
/// A name isn't looked up more often, however many links fail.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: HashMap<Endpoint, Vec<SocketAddr>>,
    asked: HashMap<Endpoint, Instant>,
    flying: HashSet<Endpoint>,
    look_ups: JoinSet<(Endpoint, io::Result<Vec<SocketAddr>>)>,
}

impl Resolver {
    /// The addresses of endpoints, as far as they are known, in the endpoints' order.
    pub(super) fn addresses(&self, endpoints: &[Endpoint]) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for endpoint in endpoints {
            match endpoint.ip() {
                Some(ip) => addresses.push(SocketAddr::new(ip, endpoint.port())),
                None => addresses.extend(self.known.get(endpoint).into_iter().flatten()),
            }
        }
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        addresses
    }

    /// Looks a name up, unless that has just been done. [`next`](Self::next) has the result.
    pub(super) fn look_up(&mut self, endpoint: &Endpoint) {
        let now = Instant::now();
        let recent = self.asked.get(endpoint).is_some_and(|at| now.duration_since(*at) < PAUSE);
        if endpoint.ip().is_some() || recent || !self.flying.insert(endpoint.clone()) {
            return;
        }
        self.asked.insert(endpoint.clone(), now);
        let endpoint = endpoint.clone();
        self.look_ups.spawn(async move {
            let found = resolve(&endpoint).await;
            (endpoint, found)
        });
    }

    /// Forgets names that are not in use any more.
    pub(super) fn forget_all_but(&mut self, names: &HashSet<&Endpoint>) {
        self.known.retain(|name, _| names.contains(name));
        self.asked.retain(|name, _| names.contains(name));
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.look_ups.is_empty()
    }

    /// The next name whose addresses have changed, or `None` after one that hasn't. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Endpoint> {
        let (endpoint, found) = self.look_ups.join_next().await?.ok()?;
        self.flying.remove(&endpoint);
        match found {
            Ok(found) => {
                let before = self.known.insert(endpoint.clone(), found.clone());
                (before.as_ref() != Some(&found)).then_some(endpoint)
            }
            Err(error) => {
                debug!(%endpoint, %error, "not resolved");
                None
            }
        }
    }
}

async fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    let look_up = tokio::net::lookup_host((endpoint.host(), endpoint.port()));
    let mut found: Vec<SocketAddr> =
        timeout(LIMIT, look_up).await.map_err(|_| io::ErrorKind::TimedOut)??.collect();
    // Servers rotate their answers; another order is no change.
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_no_look_up_and_names_wait_for_theirs() {
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
        assert_eq!(addresses.len(), 3, "no address twice: {addresses:?}");
        assert_eq!(addresses[0], "203.0.113.7:58423".parse().unwrap());
    }
}

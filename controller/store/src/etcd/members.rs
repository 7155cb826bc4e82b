//! The members of etcd: a connection to each. One of them is used until it fails.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use super::{
    Config,
    error::{Fate, Fault},
};
use crate::ReadError;

/// For one member's answer. A proposal to a leader that has just died is lost without an error, so this is also how long a
/// write waits before it is tried again.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// For a call with all its attempts: an election takes less.
pub(super) const TOTAL_TIMEOUT: Duration = Duration::from_secs(8);
/// For another member to have a leader, and between two checks.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// After all members failed.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// etcd refuses more than one ping in 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two checks of all members.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Members {
    all: Vec<Member>,
    options: ConnectOptions,
    /// The index of the member in use.
    current: AtomicUsize,
}

struct Member {
    endpoint: String,
    client: Mutex<Option<Client>>,
    up: AtomicBool,
}

impl Members {
    pub(super) fn new(config: &Config) -> Result<Self, ReadError> {
        if config.endpoints.is_empty() {
            return Err(ReadError::Unavailable("no endpoint of etcd is given".to_owned()));
        }
        let secure = |endpoint: &String| endpoint.starts_with("https://");
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(CALL_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_auto_token_refresh(true);
        if config.endpoints.iter().any(secure) {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &config.ca {
                tls = tls.ca_certificate(Certificate::from_pem(ca));
            }
            if let Some((cert, key)) = &config.identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            options = options.with_tls(tls);
        }
        if let Some((name, password)) = &config.user {
            options = options.with_user(name.as_str(), password.as_str());
        }
        let all = config.endpoints.iter().map(|endpoint| Member {
            endpoint: endpoint.clone(),
            client: Mutex::default(),
            up: AtomicBool::new(true),
        });
        Ok(Self { all: all.collect(), options, current: AtomicUsize::new(0) })
    }

    /// Whether the endpoints and certificates are well-formed. Connects to nothing.
    pub(super) async fn check_config(config: &Config) -> Result<(), ReadError> {
        // With a user it would connect.
        let bare = Self::new(&Config { user: None, ..config.clone() })?;
        for member in 0..bare.all.len() {
            bare.client(member).await.map_err(|fault| ReadError::Unavailable(fault.text))?;
        }
        Ok(())
    }

    /// The index of the member in use.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Uses another member, if this one is still in use: the first of the others that has a leader. The next one in the list
    /// may be the one whose failure made this one fail.
    pub(super) async fn leave(&self, member: usize) {
        // A concurrent call may have left it already.
        if self.current() == member {
            self.switch(member, self.other_with_leader(member).await);
        }
    }

    /// The first of the other members that has a leader; otherwise one that answered, as it may get a leader; otherwise the
    /// next one.
    async fn other_with_leader(&self, member: usize) -> usize {
        let next = (member + 1) % self.all.len();
        if self.all.len() <= 2 {
            return next;
        }
        let answered = AtomicUsize::new(next);
        let others = (0..self.all.len()).filter(|other| *other != member);
        let mut probes: FuturesUnordered<_> = others
            .map(|other| {
                let answered = &answered;
                async move {
                    loop {
                        match self.has_leader(other).await {
                            Some(true) => return other,
                            Some(false) => answered.store(other, Ordering::Relaxed),
                            None => {}
                        }
                        sleep(PROBE_INTERVAL).await;
                    }
                }
            })
            .collect();
        let first = timeout(PROBE_TIMEOUT, probes.next()).await.ok().flatten();
        first.unwrap_or_else(|| answered.load(Ordering::Relaxed))
    }

    fn switch(&self, member: usize, next: usize) {
        let switched =
            self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
        if switched.is_ok() && next != member {
            let (from, to) = (&self.all[member].endpoint, &self.all[next].endpoint);
            tracing::info!(%from, %to, "using another member of etcd");
        }
    }

    pub(super) fn endpoint(&self, member: usize) -> &str {
        &self.all[member].endpoint
    }

    /// One call to one member.
    pub(super) async fn attempt<T, F>(
        &self,
        member: usize,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let endpoint = self.endpoint(member);
        let client = match timeout(CALL_TIMEOUT, self.client(member)).await {
            Ok(client) => client.map_err(|mut fault| {
                // The call itself was not sent.
                if fault.fate == Fate::Unknown {
                    fault.fate = Fate::NotDone;
                }
                fault
            })?,
            Err(_) => return Err(Fault { fate: Fate::NotDone, ..Fault::timed_out(endpoint) }),
        };
        let result = match timeout(CALL_TIMEOUT, call(client)).await {
            Ok(result) => result.map_err(|error| Fault::new(endpoint, &error)),
            Err(_) => Err(Fault::timed_out(endpoint)),
        };
        if result.as_ref().is_err_and(|fault| fault.fate == Fate::Stale) {
            // The client renews an expired token by itself, but not one from before a change of users or permissions.
            *self.all[member].client.lock().await = None;
        }
        result
    }

    /// A call that may be repeated, at one member after the other.
    pub(super) async fn read<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + TOTAL_TIMEOUT;
        let mut round = Round::default();
        loop {
            let member = self.current();
            let fault = match self.attempt(member, &call).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if !fault.is_temporary() || Instant::now() >= deadline {
                return Err(fault);
            }
            round.next(self, member).await;
        }
    }

    async fn client(&self, member: usize) -> Result<Client, Fault> {
        let Member { endpoint, client, .. } = &self.all[member];
        let mut open = client.lock().await;
        if let Some(client) = &*open {
            return Ok(client.clone());
        }
        let connected = Client::connect([endpoint], Some(self.options.clone())).await;
        let connected = connected.map_err(|error| Fault::new(endpoint, &error))?;
        *open = Some(connected.clone());
        Ok(connected)
    }

    /// `"2 of 3 members"`.
    pub(super) fn health(&self) -> String {
        let up = self.all.iter().filter(|member| member.up.load(Ordering::Relaxed)).count();
        format!("{up} of {} members", self.all.len())
    }

    /// Whether a member has a leader, without which it cannot do anything; `None` if it does not answer.
    async fn has_leader(&self, member: usize) -> Option<bool> {
        let status = self
            .attempt(member, |client| async move { client.maintenance_client().status().await });
        match status.await {
            Ok(status) => Some(status.leader() != 0),
            Err(fault) if fault.fate == Fate::Denied => Some(true),
            Err(fault) => fault.is_leaderless().then_some(false),
        }
    }

    /// Checks every member.
    pub(super) async fn check_health(&self) {
        for (index, member) in self.all.iter().enumerate() {
            let up = self.has_leader(index).await == Some(true);
            let was_up = member.up.swap(up, Ordering::Relaxed);
            match (was_up, up) {
                (true, false) => {
                    tracing::warn!(endpoint = %member.endpoint, "a member of etcd does not work")
                }
                (false, true) => {
                    tracing::info!(endpoint = %member.endpoint, "a member of etcd works again")
                }
                _ => {}
            }
        }
    }

    /// Checks every member at an interval.
    pub(super) async fn keep_checking(&self) {
        loop {
            sleep(CHECK_INTERVAL).await;
            self.check_health().await;
        }
    }
}

/// Counts the members that failed.
#[derive(Default)]
pub(super) struct Round(usize);

impl Round {
    /// Leaves a member. After all have failed, waits a little.
    pub(super) async fn next(&mut self, members: &Members, member: usize) {
        members.leave(member).await;
        self.0 += 1;
        if self.0.is_multiple_of(members.all.len()) {
            sleep(RETRY_DELAY).await;
        }
    }
}

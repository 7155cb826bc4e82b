//! The members of etcd: a connection to each, of which one is used until it fails.

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

/// How long one member may take for an answer. A proposal that went to a leader which has just died is
/// lost without a word, so this is also how long a write waits before it is made again.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// How long a call may take with all its attempts: a leader is elected within.
pub(super) const BUDGET: Duration = Duration::from_secs(8);
/// How long the others may take to have a leader, of which the first is used; and the pause between two questions.
const PROBE: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(50);
/// The pause after no member did what was asked.
const PAUSE: Duration = Duration::from_millis(100);
/// etcd refuses more pings than one in 5 s.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(3);
/// How often all members are looked at.
const LOOK: Duration = Duration::from_secs(5);

pub(super) struct Members {
    all: Vec<Member>,
    options: ConnectOptions,
    /// The one in use.
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
            .with_connect_timeout(ANSWER)
            .with_keep_alive(PING, PONG)
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

    /// Whether the endpoints and certificates can be used at all. Connects to nothing.
    pub(super) async fn check(config: &Config) -> Result<(), ReadError> {
        // With a user it would.
        let bare = Self::new(&Config { user: None, ..config.clone() })?;
        for member in 0..bare.all.len() {
            bare.client(member).await.map_err(|fault| ReadError::Unavailable(fault.text))?;
        }
        Ok(())
    }

    /// The member in use.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Has another one used, if it still is this one that is: the first of the others that has a leader. The next in
    /// the list may be the one whose loss has silenced this one.
    pub(super) async fn leave(&self, member: usize) {
        // Who fails later than another finds it left.
        if self.current() == member {
            self.leave_for(member, self.led_but(member).await);
        }
    }

    /// The first of the others to have a leader; or one that answered, for it may yet; or the next.
    async fn led_but(&self, member: usize) -> usize {
        let next = self.after(member);
        if self.all.len() <= 2 {
            return next;
        }
        let answered = AtomicUsize::new(next);
        let others = (0..self.all.len()).filter(|other| *other != member);
        let mut asked: FuturesUnordered<_> = others
            .map(|other| {
                let answered = &answered;
                async move {
                    loop {
                        match self.is_led(other).await {
                            Some(true) => return other,
                            Some(false) => answered.store(other, Ordering::Relaxed),
                            None => {}
                        }
                        sleep(AGAIN).await;
                    }
                }
            })
            .collect();
        let first = timeout(PROBE, asked.next()).await.ok().flatten();
        first.unwrap_or_else(|| answered.load(Ordering::Relaxed))
    }

    fn after(&self, member: usize) -> usize {
        (member + 1) % self.all.len()
    }

    fn leave_for(&self, member: usize, next: usize) {
        let left =
            self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
        if left.is_ok() && next != member {
            let (from, to) = (&self.all[member].endpoint, &self.all[next].endpoint);
            tracing::info!(%from, %to, "another member of etcd is used");
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
        let client = match timeout(ANSWER, self.client(member)).await {
            Ok(client) => client.map_err(|mut fault| {
                // The call itself was not made.
                if fault.fate == Fate::Unknown {
                    fault.fate = Fate::NotDone;
                }
                fault
            })?,
            Err(_) => return Err(Fault { fate: Fate::NotDone, ..Fault::silent(endpoint) }),
        };
        let result = match timeout(ANSWER, call(client)).await {
            Ok(result) => result.map_err(|error| Fault::of(endpoint, &error)),
            Err(_) => Err(Fault::silent(endpoint)),
        };
        if result.as_ref().is_err_and(|fault| fault.fate == Fate::Stale) {
            // The client renews a token that has expired; not one from before a change of users or rights.
            *self.all[member].client.lock().await = None;
        }
        result
    }

    /// A call that may be made several times, at one member after the other.
    pub(super) async fn read<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + BUDGET;
        let mut round = Round::default();
        loop {
            let member = self.current();
            let fault = match self.attempt(member, &call).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if !fault.is_passing() || Instant::now() >= deadline {
                return Err(fault);
            }
            round.next(self, member).await;
        }
    }

    async fn client(&self, member: usize) -> Result<Client, Fault> {
        let Member { endpoint, client, .. } = &self.all[member];
        let mut kept = client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let made = Client::connect([endpoint], Some(self.options.clone())).await;
        let made = made.map_err(|error| Fault::of(endpoint, &error))?;
        *kept = Some(made.clone());
        Ok(made)
    }

    /// `"2 of 3 members"`.
    pub(super) fn health(&self) -> String {
        let up = self.all.iter().filter(|member| member.up.load(Ordering::Relaxed)).count();
        format!("{up} of {} members", self.all.len())
    }

    /// Whether a member has a leader, without which it takes part in nothing; `None` if it does not answer.
    async fn is_led(&self, member: usize) -> Option<bool> {
        let asked = self
            .attempt(member, |client| async move { client.maintenance_client().status().await });
        match asked.await {
            Ok(status) => Some(status.leader() != 0),
            Err(fault) if fault.fate == Fate::Denied => Some(true),
            Err(fault) => fault.is_leaderless().then_some(false),
        }
    }

    /// Asks every member how it is.
    pub(super) async fn look(&self) {
        for (index, member) in self.all.iter().enumerate() {
            let up = self.is_led(index).await == Some(true);
            let was = member.up.swap(up, Ordering::Relaxed);
            match (was, up) {
                (true, false) => {
                    tracing::warn!(endpoint = %member.endpoint, "a member of etcd is gone")
                }
                (false, true) => {
                    tracing::info!(endpoint = %member.endpoint, "a member of etcd is back")
                }
                _ => {}
            }
        }
    }

    /// The same again and again.
    pub(super) async fn look_on(&self) {
        loop {
            sleep(LOOK).await;
            self.look().await;
        }
    }
}

/// Counts the members that were tried in vain.
#[derive(Default)]
pub(super) struct Round(usize);

impl Round {
    /// Leaves a member; after the last one waits a little.
    pub(super) async fn next(&mut self, members: &Members, member: usize) {
        members.leave(member).await;
        self.0 += 1;
        if self.0.is_multiple_of(members.all.len()) {
            sleep(PAUSE).await;
        }
    }
}

//! Getting in: TLS on both sides, users and passwords.

use std::{path::PathBuf, time::Duration};

use cframe_controller::store::{
    ReadError, Store,
    etcd::{Config, Etcd},
};
use etcd_client::{Client, ConnectOptions, Permission, PermissionType};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::cluster::{Cluster, PATIENCE, PREFIX, Setup, network, until, write};

/// A CA with the certificates of one member and one client.
struct Pki {
    ca: String,
    server: (PathBuf, PathBuf),
    ca_file: PathBuf,
    client: (String, String),
    directory: tempfile::TempDir,
}

impl Pki {
    fn new(host: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = |names: Vec<SanType>| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.subject_alt_names = names;
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        let put = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let server = leaf(vec![SanType::IpAddress(host.parse().unwrap())]);
        let client = leaf(vec![SanType::DnsName("cframe".try_into().unwrap())]);
        Self {
            server: (put("server.pem", &server.0), put("server-key.pem", &server.1)),
            ca_file: put("ca.pem", &ca.pem()),
            ca: ca.pem(),
            client,
            directory,
        }
    }

    fn setup(&self) -> Setup {
        let flags = [
            ("--cert-file", &self.server.0),
            ("--key-file", &self.server.1),
            ("--trusted-ca-file", &self.ca_file),
        ];
        let mut arguments: Vec<String> = flags
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect();
        arguments.push("--client-cert-auth".to_owned());
        Setup { arguments, tls: true }
    }

    fn identity(&self) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
        let (cert, key) = &self.client;
        Some((cert.clone().into_bytes(), Zeroizing::new(key.clone().into_bytes())))
    }
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, ReadError>) -> String {
    match result {
        Err(ReadError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_lets_in_who_has_a_certificate_and_trusts_the_right_ca() {
    let network = network();
    let pki = Pki::new(&format!("{network}.1"));
    let cluster = Cluster::with(1, network, &pki.setup());
    let ca = Some(pki.ca.clone().into_bytes());
    let config = Config { endpoints: cluster.endpoints(), ca, ..Config::default() };
    let store = Etcd::new(&Config { identity: pki.identity(), ..config.clone() }).unwrap();
    until(PATIENCE, async || store.list(PREFIX).await.is_ok()).await;
    let revision = write(&store, "a", "1").await.unwrap();
    assert_eq!(store.list(PREFIX).await.unwrap().entries[0].modified, revision);

    let nobody = Etcd::new(&config).unwrap();
    unavailable(nobody.list(PREFIX).await);

    let others = Pki::new("127.0.0.1");
    let ca = Some(others.ca.clone().into_bytes());
    let elsewhere = Etcd::new(&Config { ca, identity: pki.identity(), ..config }).unwrap();
    let reason = unavailable(elsewhere.list(PREFIX).await);
    assert!(reason.contains("certificate"), "{reason}");
    assert!(pki.directory.path().exists());
}

/// Two users: `root`, and `cframe` who may use the keys of the store only.
async fn enable_auth(cluster: &Cluster) {
    let client = cluster.client(0).await;
    let mut auth = client.auth_client();
    auth.role_add("store").await.unwrap();
    let all = Permission::new(PermissionType::Readwrite, "/cframe/").with_prefix();
    auth.role_grant_permission("store", all).await.unwrap();
    for (user, password, role) in [("root", "toor", "root"), ("cframe", "s3cret", "store")] {
        auth.user_add(user, password, None).await.unwrap();
        auth.user_grant_role(user, role).await.unwrap();
    }
    auth.auth_enable().await.unwrap();
}

fn user(cluster: &Cluster, name: &str, password: &str) -> Etcd {
    let user = Some((name.to_owned(), Zeroizing::new(password.to_owned())));
    Etcd::new(&Config { endpoints: cluster.endpoints(), user, ..Config::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_gets_in_by_password_and_stays_when_tokens_end() {
    const TTL: u64 = 1;
    let setup = Setup {
        arguments: vec!["--auth-token-ttl".to_owned(), TTL.to_string()],
        ..Setup::default()
    };
    let mut cluster = Cluster::with(1, network(), &setup);
    cluster.ready().await;
    enable_auth(&cluster).await;

    let store = user(&cluster, "cframe", "s3cret");
    let from = write(&store, "a", "0").await.unwrap();
    let mut watch = store.watch(PREFIX, from).await.unwrap();
    // It is renewed while it is used, and used again after it has ended.
    let quiet = Duration::from_secs(3 * TTL);
    assert!(timeout(quiet, watch.next()).await.is_err(), "a quiet watch ended");
    let revision = write(&store, "a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, revision);
    let ttl = Duration::from_secs(2);
    let mut held = store.advertise(format!("{PREFIX}alive/one"), Vec::new(), ttl).await.unwrap();
    assert!(timeout(quiet, held.lost()).await.is_err(), "a lease was lost with the token");

    // A change of users makes all tokens old.
    let options = ConnectOptions::new().with_user("root", "toor");
    let root = Client::connect(cluster.endpoints(), Some(options)).await.unwrap();
    root.auth_client().user_add("more", "x", None).await.unwrap();
    write(&store, "a", "2").await.unwrap();
    assert_eq!(store.list(PREFIX).await.unwrap().entries.len(), 2);

    // And a restart forgets them.
    cluster.members[0].kill();
    cluster.members[0].start();
    until(PATIENCE, async || write(&store, "a", "3").await.is_ok()).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_at_once_and_without_the_password() {
    let cluster = Cluster::start(1).await;
    enable_auth(&cluster).await;
    let begun = Instant::now();
    for (name, password) in [("cframe", "wrong-pass"), ("nobody", "wrong-pass")] {
        let reason = unavailable(user(&cluster, name, password).list(PREFIX).await);
        assert!(reason.contains("invalid user ID or password"), "{reason}");
        assert!(!reason.contains("wrong-pass"), "{reason}");
    }
    let reason = unavailable(cluster.store().list(PREFIX).await);
    assert!(reason.contains("user name is empty"), "{reason}");
    let elsewhere = user(&cluster, "cframe", "s3cret");
    let reason = unavailable(elsewhere.list("/elsewhere/").await);
    assert!(reason.contains("permission denied"), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

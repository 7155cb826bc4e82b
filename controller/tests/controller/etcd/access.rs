//! Getting in: TLS on both sides, users and passwords.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Command, time::Duration};

use cframe_store::{
    ReadError, Store,
    etcd::{Config, Etcd},
};
use etcd_client::{Certificate, Client, ConnectOptions, TlsOptions};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::cluster::{Cluster, PATIENCE, PREFIX, Setup, network, until, write};

/// A CA with the certificates of one member and one client.
struct Pki {
    ca: String,
    server: (PathBuf, PathBuf),
    ca_file: PathBuf,
    client: (String, String),
    client_files: [PathBuf; 2],
    directory: tempfile::TempDir,
}

impl Pki {
    fn new(host: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = |common_name: &str, names: Vec<SanType>| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.subject_alt_names = names;
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        let put = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let server = leaf("member", vec![SanType::IpAddress(host.parse().unwrap())]);
        // As the operations guide does: etcd takes the common name for the user's.
        let client = leaf("cframe", Vec::new());
        Self {
            server: (put("server.pem", &server.0), put("server-key.pem", &server.1)),
            ca_file: put("ca.pem", &ca.pem()),
            ca: ca.pem(),
            client_files: [put("client.pem", &client.0), put("client-key.pem", &client.1)],
            client,
            directory,
        }
    }

    /// For members that let in who has a certificate.
    fn setup(&self) -> Setup {
        let mut setup = self.without_clients();
        let ca = self.ca_file.display().to_string();
        setup.arguments.extend(["--trusted-ca-file".to_owned(), ca]);
        setup.arguments.push("--client-cert-auth".to_owned());
        setup
    }

    /// For members that ask for no certificate.
    fn without_clients(&self) -> Setup {
        let files = [("--cert-file", &self.server.0), ("--key-file", &self.server.1)];
        let arguments = files
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect();
        Setup { arguments, tls: true }
    }

    /// Without a certificate of its own.
    fn config(&self, cluster: &Cluster) -> Config {
        let ca = Some(self.ca.clone().into_bytes());
        Config { endpoints: cluster.endpoints(), ca, ..Config::default() }
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
    let config = pki.config(&cluster);
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

/// The passwords of two users: `root`, and `cframe` who may use the keys of the store only.
struct Passwords {
    root: String,
    cframe: String,
}

/// Does what the operations guide says, as it stands there, over TLS and with the client's certificate.
fn enable_auth(cluster: &Cluster, pki: &Pki) -> Passwords {
    let guide = include_str!("../../../../doc/operations.md");
    let (_, section) =
        guide.split_once("**Instead of a client's certificate, a password.**").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (script, _) = block.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(&directory);
    bash.envs([("ETCDCTL_API", "3"), ("ETCDCTL_ENDPOINTS", &cluster.endpoints().join(","))]);
    let [cert, key] = &pki.client_files;
    bash.env("ETCDCTL_CACERT", &pki.ca_file).env("ETCDCTL_CERT", cert).env("ETCDCTL_KEY", key);
    let output = bash.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let password = |name: &str| {
        let path = directory.path().join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::read_to_string(path).unwrap().trim_end().to_owned()
    };
    Passwords { root: password("etcd-root.password"), cframe: password("etcd.password") }
}

fn user(cluster: &Cluster, pki: &Pki, name: &str, password: &str) -> Etcd {
    let user = Some((name.to_owned(), Zeroizing::new(password.to_owned())));
    Etcd::new(&Config { user, ..pki.config(cluster) }).unwrap()
}

/// One member with users.
async fn with_users(more: &[&str]) -> (Cluster, Pki, Passwords) {
    let network = network();
    let pki = Pki::new(&format!("{network}.1"));
    let mut setup = pki.without_clients();
    setup.arguments.extend(more.iter().map(ToString::to_string));
    let cluster = Cluster::with(1, network, &setup);
    let anybody = Etcd::new(&pki.config(&cluster)).unwrap();
    until(PATIENCE, async || anybody.list(PREFIX).await.is_ok()).await;
    let passwords = enable_auth(&cluster, &pki);
    (cluster, pki, passwords)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_gets_in_by_password_and_stays_when_tokens_end() {
    const TTL: u64 = 1;
    let ttl = TTL.to_string();
    let (mut cluster, pki, passwords) = with_users(&["--auth-token-ttl", &ttl]).await;
    let store = user(&cluster, &pki, "cframe", &passwords.cframe);
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
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&pki.ca));
    let options = ConnectOptions::new().with_tls(tls).with_user("root", passwords.root);
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

/// The steps of the operations guide: at each, who has not gone it yet and who has get in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_from_a_certificate_to_a_password_locks_nobody_out() {
    let network = network();
    let pki = Pki::new(&format!("{network}.1"));
    let mut cluster = Cluster::with(1, network, &pki.setup());
    let nothing = pki.config(&cluster);
    let certificate = Config { identity: pki.identity(), ..nothing.clone() };
    let write = async |config: &Config| write(&Etcd::new(config).unwrap(), "a", "1").await.is_ok();
    until(PATIENCE, async || write(&certificate).await).await;
    let Passwords { cframe, .. } = enable_auth(&cluster, &pki);
    let user = Some(("cframe".to_owned(), Zeroizing::new(cframe)));
    let both = Config { user: user.clone(), ..certificate.clone() };
    let password = Config { user, ..nothing };
    // Before a controller has the password, and when it has.
    assert!(write(&certificate).await && write(&both).await);
    let member = &mut cluster.members[0];
    member.kill();
    member.without("--client-cert-auth");
    member.without("--trusted-ca-file");
    member.start();
    // Before it has let go of the certificate, and when it has.
    until(PATIENCE, async || write(&both).await).await;
    assert!(write(&password).await);
    assert!(!write(&certificate).await, "a certificate is nobody now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_at_once_and_without_the_password() {
    let (cluster, pki, passwords) = with_users(&[]).await;
    let begun = Instant::now();
    for (name, password) in [("cframe", "wrong-pass"), ("nobody", "wrong-pass")] {
        let reason = unavailable(user(&cluster, &pki, name, password).list(PREFIX).await);
        assert!(reason.contains("invalid user ID or password"), "{reason}");
        assert!(!reason.contains("wrong-pass"), "{reason}");
    }
    let anybody = Etcd::new(&pki.config(&cluster)).unwrap();
    let reason = unavailable(anybody.list(PREFIX).await);
    assert!(reason.contains("user name is empty"), "{reason}");
    let elsewhere = user(&cluster, &pki, "cframe", &passwords.cframe);
    let reason = unavailable(elsewhere.list("/elsewhere/").await);
    assert!(reason.contains("permission denied"), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

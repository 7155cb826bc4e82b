//! How a controller authenticates to etcd: TLS on both sides, users and passwords.

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
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::support::{
    etcd::{EtcdCluster, EtcdOptions, network},
    wait::until,
    writes::{PREFIX, write},
};

/// A CA with the certificates of one member and one client. Certificates and keys are PEM.
struct EtcdCertificates {
    ca: String,
    ca_file: PathBuf,
    /// The files with a member's certificate and key.
    server_files: [PathBuf; 2],
    client: (String, String),
    client_files: [PathBuf; 2],
    _directory: TempDir,
}

impl EtcdCertificates {
    fn new(host: &str) -> Self {
        let directory = TempDir::new().unwrap();
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
        // As in the operations guide: etcd takes the common name as the name of the user.
        let client = leaf("cframe", Vec::new());
        Self {
            server_files: [put("server.pem", &server.0), put("server-key.pem", &server.1)],
            ca_file: put("ca.pem", &ca.pem()),
            ca: ca.pem(),
            client_files: [put("client.pem", &client.0), put("client-key.pem", &client.1)],
            client,
            _directory: directory,
        }
    }

    /// Options for members that accept only clients with a certificate.
    fn mutual_tls(&self) -> EtcdOptions {
        let mut options = self.server_tls();
        let ca = self.ca_file.display().to_string();
        options.arguments.extend(["--trusted-ca-file".to_owned(), ca]);
        options.arguments.push("--client-cert-auth".to_owned());
        options
    }

    /// Options for members that ask their clients for no certificate.
    fn server_tls(&self) -> EtcdOptions {
        let [cert, key] = &self.server_files;
        let files = [("--cert-file", cert), ("--key-file", key)];
        let arguments = files
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect();
        EtcdOptions { arguments, tls: true }
    }

    /// The configuration of a client without a certificate.
    fn config(&self, cluster: &EtcdCluster) -> Config {
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
async fn a_client_needs_a_certificate_and_must_trust_the_right_ca() {
    let network = network();
    let certificates = EtcdCertificates::new(&format!("{network}.1"));
    let cluster = EtcdCluster::spawn(1, network, &certificates.mutual_tls());
    let config = certificates.config(&cluster);
    let store = Etcd::new(&Config { identity: certificates.identity(), ..config.clone() }).unwrap();
    until(async || store.list(PREFIX).await.is_ok()).await;
    let revision = write(&store, "a", "1").await.unwrap();
    assert_eq!(store.list(PREFIX).await.unwrap().entries[0].modified, revision);

    let without_certificate = Etcd::new(&config).unwrap();
    unavailable(without_certificate.list(PREFIX).await);

    let others = EtcdCertificates::new("127.0.0.1");
    let ca = Some(others.ca.clone().into_bytes());
    let other_ca = Etcd::new(&Config { ca, identity: certificates.identity(), ..config }).unwrap();
    let reason = unavailable(other_ca.list(PREFIX).await);
    assert!(reason.contains("certificate"), "{reason}");
}

/// The passwords of two users: `root`, and `cframe`, who may only use the keys of the store.
struct Passwords {
    root: String,
    cframe: String,
}

/// Runs the commands of the operations guide as they are printed there, over TLS and with the client's certificate.
fn enable_auth(cluster: &EtcdCluster, certificates: &EtcdCertificates) -> Passwords {
    let guide = include_str!("../../../../doc/operations.md");
    let (_, section) =
        guide.split_once("**Instead of a client's certificate, a password.**").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (script, _) = block.split_once("```").unwrap();
    let directory = TempDir::new().unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(&directory);
    bash.envs([("ETCDCTL_API", "3"), ("ETCDCTL_ENDPOINTS", &cluster.endpoints().join(","))]);
    let [cert, key] = &certificates.client_files;
    bash.env("ETCDCTL_CACERT", &certificates.ca_file)
        .env("ETCDCTL_CERT", cert)
        .env("ETCDCTL_KEY", key);
    let output = bash.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let password = |name: &str| {
        let path = directory.path().join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::read_to_string(path).unwrap().trim_end().to_owned()
    };
    Passwords { root: password("etcd-root.password"), cframe: password("etcd.password") }
}

fn user(
    cluster: &EtcdCluster,
    certificates: &EtcdCertificates,
    name: &str,
    password: &str,
) -> Etcd {
    let user = Some((name.to_owned(), Zeroizing::new(password.to_owned())));
    Etcd::new(&Config { user, ..certificates.config(cluster) }).unwrap()
}

/// A cluster of one member, with users.
async fn cluster_with_users(more: &[&str]) -> (EtcdCluster, EtcdCertificates, Passwords) {
    let network = network();
    let certificates = EtcdCertificates::new(&format!("{network}.1"));
    let mut options = certificates.server_tls();
    options.arguments.extend(more.iter().map(ToString::to_string));
    let cluster = EtcdCluster::spawn(1, network, &options);
    let anybody = Etcd::new(&certificates.config(&cluster)).unwrap();
    until(async || anybody.list(PREFIX).await.is_ok()).await;
    let passwords = enable_auth(&cluster, &certificates);
    (cluster, certificates, passwords)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_a_password_stays_connected_when_tokens_expire() {
    const TTL: u64 = 1;
    let ttl = TTL.to_string();
    let (mut cluster, certificates, passwords) =
        cluster_with_users(&["--auth-token-ttl", &ttl]).await;
    let store = user(&cluster, &certificates, "cframe", &passwords.cframe);
    let from = write(&store, "a", "0").await.unwrap();
    let mut watch = store.watch(PREFIX, from).await.unwrap();
    // The token is renewed while it is in use. After it has expired, there is a new one.
    let quiet = Duration::from_secs(3 * TTL);
    assert!(timeout(quiet, watch.next()).await.is_err(), "a quiet watch ended");
    let revision = write(&store, "a", "1").await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, revision);
    let ttl = Duration::from_secs(2);
    let mut held = store.advertise(format!("{PREFIX}alive/one"), Vec::new(), ttl).await.unwrap();
    assert!(timeout(quiet, held.lost()).await.is_err(), "a lease was lost with the token");

    // A change of users invalidates all tokens.
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&certificates.ca));
    let options = ConnectOptions::new().with_tls(tls).with_user("root", passwords.root);
    let root = Client::connect(cluster.endpoints(), Some(options)).await.unwrap();
    root.auth_client().user_add("more", "x", None).await.unwrap();
    write(&store, "a", "2").await.unwrap();
    assert_eq!(store.list(PREFIX).await.unwrap().entries.len(), 2);

    // So does a restart.
    cluster.members[0].kill();
    cluster.members[0].start();
    until(async || write(&store, "a", "3").await.is_ok()).await;
    drop(held);
}

/// The steps of the operations guide. At each step, a controller that has taken it and one that has not can both write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_from_a_certificate_to_a_password_locks_nobody_out() {
    let network = network();
    let certificates = EtcdCertificates::new(&format!("{network}.1"));
    let mut cluster = EtcdCluster::spawn(1, network, &certificates.mutual_tls());
    let nothing = certificates.config(&cluster);
    let certificate = Config { identity: certificates.identity(), ..nothing.clone() };
    let write = async |config: &Config| write(&Etcd::new(config).unwrap(), "a", "1").await.is_ok();
    until(async || write(&certificate).await).await;
    let Passwords { cframe, .. } = enable_auth(&cluster, &certificates);
    let user = Some(("cframe".to_owned(), Zeroizing::new(cframe)));
    let both = Config { user: user.clone(), ..certificate.clone() };
    let password = Config { user, ..nothing };
    // Before and after a controller has the password.
    assert!(write(&certificate).await && write(&both).await);
    let member = &mut cluster.members[0];
    member.kill();
    member.remove_flag("--client-cert-auth");
    member.remove_flag("--trusted-ca-file");
    member.start();
    // Before and after a controller has given up the certificate.
    until(async || write(&both).await).await;
    assert!(write(&password).await);
    assert!(!write(&certificate).await, "a certificate is no longer a user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_user_gets_an_error_at_once_and_without_the_password() {
    let (cluster, certificates, passwords) = cluster_with_users(&[]).await;
    let start = Instant::now();
    for (name, password) in [("cframe", "wrong-pass"), ("nobody", "wrong-pass")] {
        let reason = unavailable(user(&cluster, &certificates, name, password).list(PREFIX).await);
        assert!(reason.contains("invalid user ID or password"), "{reason}");
        assert!(!reason.contains("wrong-pass"), "{reason}");
    }
    let without_user = Etcd::new(&certificates.config(&cluster)).unwrap();
    let reason = unavailable(without_user.list(PREFIX).await);
    assert!(reason.contains("user name is empty"), "{reason}");
    let cframe = user(&cluster, &certificates, "cframe", &passwords.cframe);
    let reason = unavailable(cframe.list("/elsewhere/").await);
    assert!(reason.contains("permission denied"), "{reason}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

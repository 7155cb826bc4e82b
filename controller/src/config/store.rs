//! Which store, and where it is.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Deserialize;

/// Flags of the store.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreFlags {
    /// Where the mesh is stored: in the data directory, or in etcd for several controllers [default: embedded]
    #[arg(long, value_name = "KIND", global = true)]
    pub store: Option<Kind>,
    /// A member of etcd, such as https://10.0.0.1:2379; repeat it for all of them
    #[arg(long, value_name = "URL", value_delimiter = ',', global = true)]
    pub etcd_endpoint: Vec<String>,
    /// The CA of etcd's certificates, PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub etcd_ca: Option<PathBuf>,
    /// The client certificate for etcd, PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub etcd_cert: Option<PathBuf>,
    /// Its key, PEM, mode 0600
    #[arg(long, value_name = "FILE", global = true)]
    pub etcd_key: Option<PathBuf>,
    /// The user in etcd
    #[arg(long, value_name = "NAME", global = true)]
    pub etcd_username: Option<String>,
    /// A file of mode 0600 with the user's password on its first line
    #[arg(long, value_name = "FILE", global = true)]
    pub etcd_password_file: Option<PathBuf>,
}

/// Where the mesh is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// In the data directory.
    Embedded,
    /// In etcd.
    Etcd,
}

/// The section `[store]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreFile {
    pub kind: Option<Kind>,
}

/// The section `[etcd]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdFile {
    /// One URL of each member.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// PEM file.
    pub ca: Option<PathBuf>,
    /// PEM file.
    pub cert: Option<PathBuf>,
    /// PEM file, mode 0600.
    pub key: Option<PathBuf>,
    pub username: Option<String>,
    /// Mode 0600.
    pub password_file: Option<PathBuf>,
}

pub(crate) const NO_ETCD: &str =
    "this cframe-controller was built without etcd: build with --features etcd";

/// Where the mesh is stored, as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StoreConfig {
    /// In the data directory.
    #[default]
    Embedded,
    /// In etcd.
    Etcd(EtcdFile),
}

impl StoreConfig {
    /// Whether several controllers can use the store.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Etcd(_))
    }

    pub(super) fn resolve(flags: &StoreFlags, store: StoreFile, file: EtcdFile) -> Result<Self> {
        let endpoints = match flags.etcd_endpoint.as_slice() {
            [] => file.endpoints,
            given => given.to_vec(),
        };
        let etcd = EtcdFile {
            endpoints,
            ca: flags.etcd_ca.clone().or(file.ca),
            cert: flags.etcd_cert.clone().or(file.cert),
            key: flags.etcd_key.clone().or(file.key),
            username: flags.etcd_username.clone().or(file.username),
            password_file: flags.etcd_password_file.clone().or(file.password_file),
        };
        match flags.store.or(store.kind) {
            Some(Kind::Etcd) => {
                check(&etcd)?;
                Ok(Self::Etcd(etcd))
            }
            Some(Kind::Embedded) => Ok(Self::Embedded),
            None if etcd == EtcdFile::default() => Ok(Self::Embedded),
            None => bail!(
                "etcd is configured, but the store is not etcd; add --store etcd, or kind = \"etcd\" in the section \
                 [store]"
            ),
        }
    }
}

fn check(etcd: &EtcdFile) -> Result<()> {
    ensure!(cfg!(feature = "etcd"), NO_ETCD);
    ensure!(
        !etcd.endpoints.is_empty(),
        "the store is etcd: give its address with --etcd-endpoint URL"
    );
    for endpoint in &etcd.endpoints {
        ensure!(
            ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)),
            "--etcd-endpoint {endpoint:?} is not a URL such as https://10.0.0.1:2379"
        );
    }
    let secure = etcd.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    ensure!(
        secure == 0 || secure == etcd.endpoints.len(),
        "--etcd-endpoint: {} of {} endpoints are https; all must be, or none",
        secure,
        etcd.endpoints.len()
    );
    let tls = [&etcd.ca, &etcd.cert, &etcd.key].into_iter().flatten().next();
    if let (0, Some(file)) = (secure, tls) {
        bail!("{} is for TLS, and the endpoints are http; make them https", file.display());
    }
    ensure!(secure == 0 || etcd.ca.is_some(), "the endpoints are https: give --etcd-ca FILE");
    ensure!(
        etcd.cert.is_some() == etcd.key.is_some(),
        "--etcd-cert and --etcd-key belong together: give both"
    );
    ensure!(
        etcd.username.is_some() == etcd.password_file.is_some(),
        "--etcd-username and --etcd-password-file belong together: give both"
    );
    Ok(())
}

#[cfg(all(test, feature = "etcd"))]
mod tests {
    use super::*;

    fn flags(endpoints: &[&str]) -> StoreFlags {
        let etcd_endpoint = endpoints.iter().map(ToString::to_string).collect();
        StoreFlags { store: Some(Kind::Etcd), etcd_endpoint, ..StoreFlags::default() }
    }

    fn refused(flags: &StoreFlags) -> String {
        let resolved = StoreConfig::resolve(flags, StoreFile::default(), EtcdFile::default());
        resolved.unwrap_err().to_string()
    }

    #[test]
    fn flags_that_do_not_fit_together_are_refused_with_the_fix() {
        assert!(refused(&flags(&[])).contains("--etcd-endpoint"));
        assert!(refused(&flags(&["10.0.0.1:2379"])).contains("\"10.0.0.1:2379\""));
        assert!(refused(&flags(&["http://a:1", "https://b:1"])).contains("1 of 2"));
        assert!(refused(&flags(&["https://a:1"])).contains("--etcd-ca"));
        let mut some = flags(&["http://a:1"]);
        some.etcd_ca = Some("ca.pem".into());
        assert!(refused(&some).contains("ca.pem"));
        let mut some = flags(&["http://a:1"]);
        some.etcd_username = Some("cframe".to_owned());
        assert!(refused(&some).contains("--etcd-password-file"));
        let some = StoreFlags { store: None, ..flags(&["http://a:1"]) };
        assert!(refused(&some).contains("--store etcd"));
    }

    #[test]
    fn a_flag_beats_the_file() {
        let file = EtcdFile { endpoints: vec!["http://file:1".to_owned()], ..EtcdFile::default() };
        let store = StoreFile { kind: Some(Kind::Etcd) };
        let of = |flags: &StoreFlags| match StoreConfig::resolve(flags, store.clone(), file.clone())
            .unwrap()
        {
            StoreConfig::Etcd(etcd) => etcd.endpoints,
            StoreConfig::Embedded => Vec::new(),
        };
        assert_eq!(of(&StoreFlags::default()), ["http://file:1"]);
        assert_eq!(of(&flags(&["http://flag:1"])), ["http://flag:1"]);
        let embedded = StoreFlags { store: Some(Kind::Embedded), ..StoreFlags::default() };
        assert!(of(&embedded).is_empty());
    }
}

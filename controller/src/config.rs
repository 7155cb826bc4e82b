//! Configuration: flags, then environment, then file, then defaults.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use cframe_console::log::LogFormat;
use cframe_protocol::{CONTROL_PORT, ENROLL_PORT};
use clap::Args;
use serde::Deserialize;

use crate::audit::Retention;

#[cfg(feature = "etcd")]
mod etcd;
mod store;

#[cfg(not(feature = "etcd"))]
pub(crate) use store::NO_ETCD;
pub use store::{EtcdFile, Kind, StoreConfig, StoreFile, StoreFlags};

/// The default path of the configuration file.
pub const FILE: &str = "/etc/cframe/controller.toml";
/// The default data directory.
pub const DATA_DIR: &str = "/var/lib/cframe/controller";
const DEFAULT_METRICS_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

/// The configuration file. Unknown keys are errors, so that a typing error does not lead to a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub data_dir: Option<PathBuf>,
    pub control_listen: Option<SocketAddr>,
    pub enroll_listen: Option<SocketAddr>,
    /// For `/metrics`, `/healthz`, `/readyz`; `"off"` for none.
    pub metrics_listen: Option<Metrics>,
    pub log_format: Option<LogFormat>,
    #[serde(default)]
    pub store: StoreFile,
    #[serde(default)]
    pub etcd: EtcdFile,
    pub audit_records: Option<AuditRecords>,
    pub audit_days: Option<NonZeroU32>,
}

/// Flags that several commands have.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Configuration file [default: /etc/cframe/controller.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Keys, certificates and the embedded store [default: /var/lib/cframe/controller]
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// How the log is written [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
    /// More of a log; RUST_LOG decides if it is set
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// The store.
    #[command(flatten)]
    pub store: StoreFlags,
}

/// Flags of `run`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunFlags {
    /// Where edges and admins connect.
    #[arg(
        help = "Where edges and admins connect [default: [::]:58422]",
        long,
        value_name = "ADDRESS"
    )]
    pub control_listen: Option<SocketAddr>,
    /// Where edges enrol.
    #[arg(help = "Where edges enrol [default: [::]:58421]", long, value_name = "ADDRESS")]
    pub enroll_listen: Option<SocketAddr>,
    /// Where /metrics, /healthz and /readyz are, or "off" [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<Metrics>,
    /// How many records of the audit log are kept; the oldest are deleted first [default: 10000]
    #[arg(long, value_name = "NUMBER")]
    pub audit_records: Option<AuditRecords>,
    /// For how many days a record of the audit log is kept [default: 365]
    #[arg(long, value_name = "DAYS")]
    pub audit_days: Option<NonZeroU32>,
}

/// A number of records of the audit log: at least [`Retention::MIN_RECORDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct AuditRecords(usize);

impl TryFrom<usize> for AuditRecords {
    type Error = String;

    fn try_from(records: usize) -> Result<Self, String> {
        if records < Retention::MIN_RECORDS {
            return Err(format!(
                "{records} records are too few; give {} or more",
                Retention::MIN_RECORDS
            ));
        }
        Ok(Self(records))
    }
}

impl std::str::FromStr for AuditRecords {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<usize>().map_err(|_| format!("{text:?} is not a number"))?.try_into()
    }
}

/// An address for HTTP, or `None` for "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Metrics(pub Option<SocketAddr>);

impl std::str::FromStr for Metrics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| {
            format!("{text:?} is neither an address like 127.0.0.1:9464 nor \"off\"")
        })?;
        Ok(Self(Some(address)))
    }
}

impl TryFrom<String> for Metrics {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub control_listen: SocketAddr,
    pub enroll_listen: SocketAddr,
    pub metrics_listen: Option<SocketAddr>,
    pub log_format: LogFormat,
    pub store: StoreConfig,
    /// Of the audit log.
    pub audit: Retention,
}

impl File {
    /// Reads the named file. Without one, reads the default file if it exists.
    pub fn load(named: Option<&Path>) -> Result<Self> {
        let path = named.unwrap_or(Path::new(FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Self::parse(&text).with_context(|| format!("{} cannot be used", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        // toml's message has several lines, and the last one says what is wrong.
        toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            anyhow::anyhow!("{place}{}", error.message().replace('\n', " "))
        })
    }
}

impl Config {
    /// Combines flags (which include the environment), file and defaults.
    pub fn resolve(flags: &Flags, run: &RunFlags, file: File) -> Result<Self> {
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let metrics = run.metrics_listen.or(file.metrics_listen);
        let store = StoreConfig::resolve(&flags.store, file.store, file.etcd)?;
        let default = Retention::default();
        let records = run.audit_records.or(file.audit_records);
        let days = run
            .audit_days
            .or(file.audit_days)
            .map(|days| Duration::from_secs(86_400 * u64::from(days.get())));
        Ok(Self {
            data_dir: flags
                .data_dir
                .clone()
                .or(file.data_dir)
                .unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            control_listen: run
                .control_listen
                .or(file.control_listen)
                .unwrap_or_else(|| any(CONTROL_PORT)),
            enroll_listen: run
                .enroll_listen
                .or(file.enroll_listen)
                .unwrap_or_else(|| any(ENROLL_PORT)),
            metrics_listen: metrics.map_or(Some(DEFAULT_METRICS_LISTEN), |metrics| metrics.0),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
            store,
            audit: Retention {
                records: records.map_or(default.records, |records| records.0),
                age: days.unwrap_or(default.age),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = File::parse(
            "data_dir = \"/file\"\ncontrol_listen = \"127.0.0.1:1\"\nmetrics_listen = \"off\"\n",
        )
        .unwrap();
        let run = RunFlags { control_listen: "127.0.0.1:2".parse().ok(), ..RunFlags::default() };
        let config = Config::resolve(&Flags::default(), &run, file).unwrap();
        assert_eq!(config.control_listen.port(), 2);
        assert_eq!(config.data_dir, Path::new("/file"));
        assert_eq!(config.enroll_listen.to_string(), "[::]:58421");
        assert_eq!(config.metrics_listen, None);
    }

    #[test]
    fn the_audit_log_is_limited_by_flags_and_file() {
        let keep = |file: &str, run: &RunFlags| {
            let file = File::parse(file).unwrap();
            Config::resolve(&Flags::default(), run, file).unwrap().audit
        };
        assert_eq!(keep("", &RunFlags::default()), Retention::default());
        let run = RunFlags { audit_days: NonZeroU32::new(7), ..RunFlags::default() };
        let kept = keep("audit_records = 500\naudit_days = 30\n", &run);
        assert_eq!(kept, Retention { records: 500, age: Duration::from_secs(7 * 86_400) });
        let error = format!("{:#}", File::parse("audit_records = 7\n").unwrap_err());
        assert!(error.contains("7 records are too few; give 100 or more"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = File::parse("data_dir = \"/x\"\ncontrol_listne = \"[::]:1\"\n").unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("line 2") && text.contains("control_listne"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    #[cfg(feature = "etcd")]
    fn a_file_names_the_store() {
        let file = File::parse(
            "data_dir = \"/x\"\n[store]\nkind = \"etcd\"\n[etcd]\nendpoints = [\"http://10.0.0.1:2379\"]\n",
        )
        .unwrap();
        let config = Config::resolve(&Flags::default(), &RunFlags::default(), file).unwrap();
        assert!(config.store.is_shared());
        let error = File::parse("[etcd]\nendpoint = \"x\"\n").unwrap_err();
        assert!(format!("{error:#}").contains("endpoint"), "{error:#}");
    }

    #[test]
    fn the_metrics_default_is_local() {
        let config =
            Config::resolve(&Flags::default(), &RunFlags::default(), File::default()).unwrap();
        assert_eq!(config.metrics_listen.unwrap().to_string(), "127.0.0.1:9464");
    }
}

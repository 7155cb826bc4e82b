//! Configuration: a flag wins over its environment variable, that over the file, and that over the default.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cframe_console::log::LogFormat;
use cframe_protocol::v1::Endpoint;
use clap::{Args, ValueEnum, builder::BoolishValueParser};
use serde::{Deserialize, Serialize};

use crate::instance::{Instance, InstanceError, Mark, Paths};

/// What `run` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub instance: Instance,
    pub paths: Paths,
    /// UDP port of links; `None`: the port of the enrolment.
    pub listen: Option<u16>,
    /// A level, or `MODULE=LEVEL`, or several separated by commas.
    pub log: String,
    pub log_format: LogFormat,
    pub forwarding: Forwarding,
    /// Masquerade packets from the mesh toward the site.
    pub snat: bool,
    pub own_prefixes: OwnPrefixes,
    /// The largest IP packet of the underlay, in bytes.
    pub underlay_mtu: u16,
    pub metrics_listen: Option<SocketAddr>,
    /// The mark of the edge's own packets.
    pub mark: Mark,
    /// Dialled besides the controllers that the mesh names.
    pub controllers: Vec<Endpoint>,
}

/// What the edge does about IP forwarding between the TUN and the site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// Switches it on as prefixes need it.
    #[default]
    Set,
    /// Leaves it as it is.
    Leave,
}

/// Whether packets may leave by any device for addresses of the site's own prefixes that are in no network
/// of the host, for which there is only the default route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OwnPrefixes {
    /// By devices that have an address in a prefix of the site, as in a VPC.
    #[default]
    Auto,
    Allow,
    Block,
}

/// Flags that every command has.
#[derive(Args, Clone, Debug, Default)]
pub struct CommonFlags {
    /// Instance of this edge on its host: also its TUN device's name [default: cframe0]
    #[arg(long, global = true)]
    pub instance: Option<String>,
    /// Data directory: identity, state and keys [default: /var/lib/cframe/INSTANCE]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration [default: DATA_DIR/edge.toml, or /etc/cframe/edge.toml without --data-dir]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of the command line, the environment and the file, where an unknown key is an error.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Only in the file: on the command line it is in [`CommonFlags`].
    #[arg(skip)]
    pub instance: Option<String>,
    /// UDP port of links [default: as enrolled, 58423]
    #[arg(long, value_name = "PORT")]
    pub listen: Option<u16>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as cframe_edge=debug
    #[arg(long)]
    pub log: Option<String>,
    /// How log lines look
    #[arg(long)]
    pub log_format: Option<LogFormat>,
    /// Switch IP forwarding on as prefixes need it, or leave it
    #[arg(long)]
    pub forwarding: Option<Forwarding>,
    /// Masquerade what comes from the mesh, for sites whose hosts have no route back (needs nft)
    #[arg(long, num_args = 0..=1, default_missing_value = "true",
          value_parser = BoolishValueParser::new())]
    pub snat: Option<bool>,
    /// Addresses of the site's own prefixes for which the host has only its default route: let packets
    /// leave if the device has an address of the site (auto), always (allow), or never (block)
    #[arg(long, value_name = "POLICY")]
    pub own_prefixes: Option<OwnPrefixes>,
    /// Largest IP packet of the underlay in bytes, the upper bound of path MTU discovery
    #[arg(long, value_name = "BYTES")]
    pub underlay_mtu: Option<u16>,
    /// Serve Prometheus metrics here, such as 127.0.0.1:9584
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    /// Mark of the edge's own packets, which keeps them out of its tunnel [default: 0x1040/0x1040]
    #[arg(long, value_name = "VALUE/MASK")]
    pub mark: Option<Mark>,
    /// Controllers to dial besides those that the mesh names, HOST:PORT
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[arg(long, value_delimiter = ',', value_name = "ENDPOINT")]
    pub controllers: Vec<Endpoint>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("{}", .0.display())]
    Parse(PathBuf, #[source] Box<toml::de::Error>),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error("underlay_mtu is {0}: use 1280 to 9216 bytes")]
    UnderlayMtu(u16),
}

impl CommonFlags {
    /// The instance, its paths, and the content of the file. A file that is missing counts as empty,
    /// unless it was named.
    pub fn resolve(&self) -> Result<(Instance, Paths, Options), ConfigError> {
        let named = self.instance.as_deref().map(str::parse::<Instance>).transpose()?;
        let default = named.clone().unwrap_or_default().paths(self.data_dir.as_deref());
        let path = self.config.clone().unwrap_or(default.config);
        let file = read(&path, self.config.is_some())?;
        let in_file = file.instance.as_deref().map(str::parse::<Instance>).transpose()?;
        let instance = named.or(in_file).unwrap_or_default();
        let paths = Paths { config: path, ..instance.paths(self.data_dir.as_deref()) };
        Ok((instance, paths, file))
    }
}

impl Config {
    /// Merges flags, file and defaults. clap has merged the environment into the flags.
    pub fn load(common: &CommonFlags, flags: &Options) -> Result<Self, ConfigError> {
        let (instance, paths, file) = common.resolve()?;
        let config = Self {
            instance,
            paths,
            listen: flags.listen.or(file.listen),
            log: flags.log.clone().or(file.log).unwrap_or_else(|| "info".to_owned()),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
            forwarding: flags.forwarding.or(file.forwarding).unwrap_or_default(),
            snat: flags.snat.or(file.snat).unwrap_or(false),
            own_prefixes: flags.own_prefixes.or(file.own_prefixes).unwrap_or_default(),
            underlay_mtu: flags.underlay_mtu.or(file.underlay_mtu).unwrap_or(1500),
            metrics_listen: flags.metrics_listen.or(file.metrics_listen),
            mark: flags.mark.or(file.mark).unwrap_or_default(),
            controllers: match flags.controllers.is_empty() {
                true => file.controllers,
                false => flags.controllers.clone(),
            },
        };
        match config.underlay_mtu {
            1280..=9216 => Ok(config),
            mtu => Err(ConfigError::UnderlayMtu(mtu)),
        }
    }
}

fn read(path: &Path, named: bool) -> Result<Options, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| ConfigError::Parse(path.to_owned(), Box::new(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Ok(Options::default()),
        Err(error) => Err(ConfigError::Read(path.to_owned(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(dir: &Path) -> CommonFlags {
        CommonFlags { data_dir: Some(dir.to_owned()), ..CommonFlags::default() }
    }

    fn with_file(text: &str) -> (tempfile::TempDir, CommonFlags) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("edge.toml"), text).unwrap();
        let common = common(dir.path());
        (dir, common)
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let (_dir, common) = with_file("listen = 1111\nsnat = true\nlog = 'debug'\n");
        let flags = Options { listen: Some(2222), snat: Some(false), ..Options::default() };
        let config = Config::load(&common, &flags).unwrap();
        assert_eq!((config.listen, config.snat), (Some(2222), false));
        assert_eq!(config.log, "debug");
        assert_eq!(config.underlay_mtu, 1500);
        assert_eq!(config.forwarding, Forwarding::Set);
    }

    #[test]
    fn the_instance_of_the_file_counts_unless_a_flag_names_another() {
        let (_dir, mut common) = with_file("instance = 'prod'\n");
        assert_eq!(common.resolve().unwrap().0.name(), "prod");
        common.instance = Some("other".to_owned());
        assert_eq!(common.resolve().unwrap().0.name(), "other");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let (_dir, common) = with_file("lisen = 1\n");
        let error = common.resolve().unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("lisen"), "{cause}");
    }

    #[test]
    fn a_default_file_may_be_missing_and_a_named_one_may_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(common(dir.path()).resolve().is_ok());
        let named =
            CommonFlags { config: Some(dir.path().join("none.toml")), ..common(dir.path()) };
        assert!(matches!(named.resolve(), Err(ConfigError::Read(..))));
    }

    #[test]
    fn without_a_data_dir_everything_is_in_the_systems_directories() {
        let paths = Instance::default().paths(None);
        assert_eq!(paths.config, Path::new("/etc/cframe/edge.toml"));
        assert_eq!(paths.data, Path::new("/var/lib/cframe/cframe0"));
        assert_eq!(paths.socket, Path::new("/run/cframe/cframe0.sock"));
        let other: Instance = "prod".parse().unwrap();
        assert_eq!(other.paths(None).config, Path::new("/etc/cframe/edge-prod.toml"));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let (_dir, common) = with_file("underlay_mtu = 576\n");
        let error = Config::load(&common, &Options::default()).unwrap_err();
        assert!(matches!(error, ConfigError::UnderlayMtu(576)));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = Options {
            instance: Some("prod".to_owned()),
            controllers: vec!["ctl.example.com:58422".parse().unwrap()],
            ..Options::default()
        };
        let text = toml::to_string(&file).unwrap();
        assert_eq!(text, "instance = \"prod\"\ncontrollers = [\"ctl.example.com:58422\"]\n");
        assert_eq!(toml::from_str::<Options>(&text).unwrap(), file);
    }
}

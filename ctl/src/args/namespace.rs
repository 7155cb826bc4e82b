//! `cfctl namespace …`

use cframe_pki::identity::Label;
use cframe_protocol::v1::Congestion;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use crate::value;

#[derive(Debug, Subcommand)]
pub enum NamespaceVerb {
    /// Add a namespace.
    #[command(
        visible_alias = "create",
        after_long_help = "\
Examples:
  cfctl namespace add prod
  cfctl ns add lab --tun-mtu 1500 --description 'jumbo test bed'"
    )]
    Add(NamespaceAdd),
    /// Change settings; the edges apply them at once.
    #[command(after_long_help = "Examples:\n  cfctl namespace set prod --tun-mtu 1280")]
    Set(NamespaceSet),
    /// Remove a namespace.
    ///
    /// Refused while it has edges. --cascade removes these too, with their routes and tokens, and revokes
    /// their certificates for good.
    #[command(visible_aliases = ["delete", "rm"], after_long_help = "\
Examples:
  cfctl namespace del lab
  cfctl namespace del lab --cascade --yes")]
    Del {
        /// Namespace to remove.
        #[arg(value_parser = value::label)]
        name: Label,
        /// Remove its edges, routes and tokens with it.
        #[arg(long)]
        cascade: bool,
    },
    /// List the namespaces.
    #[command(visible_alias = "ls")]
    List,
    /// Show one namespace.
    Show {
        /// Namespace to show.
        #[arg(value_parser = value::label)]
        name: Label,
    },
}

#[derive(Args, Debug)]
pub struct NamespaceAdd {
    /// Name: a DNS label of a-z, 0-9 and '-'.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// MTU of the edges' TUN devices, 1280 to 1500 [default: 1400].
    #[arg(long, alias = "mtu", value_name = "BYTES", value_parser = value::tun_mtu)]
    pub tun_mtu: Option<u16>,
    /// Congestion control of the links [default: transparent].
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<CongestionName>,
    /// Text for people, one line.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("setting").required(true).multiple(true)
    .args(["tun_mtu", "congestion"])))]
pub struct NamespaceSet {
    /// Namespace to change.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// MTU of the edges' TUN devices, 1280 to 1500.
    #[arg(long, alias = "mtu", value_name = "BYTES", value_parser = value::tun_mtu)]
    pub tun_mtu: Option<u16>,
    /// Congestion control of the links.
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<CongestionName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CongestionName {
    /// None for the link: the flows inside it have their own.
    Transparent,
    /// BBR per link.
    Bbr,
}

impl From<CongestionName> for Congestion {
    fn from(name: CongestionName) -> Self {
        match name {
            CongestionName::Transparent => Self::Transparent,
            CongestionName::Bbr => Self::Bbr,
        }
    }
}

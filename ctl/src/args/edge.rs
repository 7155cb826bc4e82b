//! `cfctl edge …` and `cfctl route …`

use cframe_pki::identity::Label;
use cframe_protocol::v1::Endpoint;
use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;

use crate::value;

/// What is done with edges.
#[derive(Debug, Subcommand)]
pub enum EdgeVerb {
    /// Add an edge: its name, the networks behind it, and where it is reached.
    ///
    /// The gateway itself joins afterwards, with a token (`cfctl token create`) or a certificate
    /// that `cfctl cert enroll` has issued.
    #[command(
        visible_alias = "create",
        after_long_help = "\
Examples:
  cfctl edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58423
  cfctl edge add idc -n prod --cidr 10.60.6.0/24,fd00:60::/64        # behind NAT: it dials out"
    )]
    Add(EdgeAdd),
    /// Change an edge in one step; its links stay.
    ///
    /// A list that is given replaces the former one.
    #[command(after_long_help = "\
Examples:
  cfctl edge set aws-hk -n prod --endpoint 198.51.100.9:58423
  cfctl edge set aws-hk -n prod --no-endpoint
  cfctl edge set aws-hk -n prod --cidr 172.30.0.0/16 --cidr 172.31.0.0/16")]
    Set(EdgeSet),
    /// Remove an edge with its routes and tokens.
    ///
    /// Its certificates are revoked for good: adding the name again does not bring them back.
    #[command(visible_aliases = ["delete", "rm"], after_long_help = "\
Examples:
  cfctl edge del aws-hk -n prod
  cfctl edge del aws-hk -n prod --yes --wait")]
    Del {
        /// Edge to remove.
        #[arg(value_parser = value::label)]
        name: Label,
    },
    /// List edges, of one namespace or of all.
    #[command(
        visible_alias = "ls",
        after_long_help = "\
Examples:
  cfctl edge list -n prod
  cfctl edge list -A -o wide
  cfctl edge list -o json | jq -r '.[] | select(.state != \"online\") | .name'"
    )]
    List {
        /// Of all namespaces, whatever the context's is.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Show one edge with its links.
    Show {
        /// Edge to show.
        #[arg(value_parser = value::label)]
        name: Label,
    },
}

/// The arguments of `edge add`.
#[derive(Args, Debug)]
pub struct EdgeAdd {
    /// Its name: a DNS label of a-z, 0-9 and '-', unique in the namespace.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// Network behind it, such as 172.30.0.0/16; repeat or separate by commas.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::cidr)]
    pub cidr: Vec<IpNet>,
    /// Where it is reached from outside, HOST:PORT; none if it can only dial out.
    #[arg(long, alias = "listener", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = value::endpoint)]
    pub endpoint: Vec<Endpoint>,
    /// A line about it, for people.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// The arguments of `edge set`.
#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)
    .args(["cidr", "endpoint", "no_endpoint", "description"])))]
pub struct EdgeSet {
    /// Edge to change.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// The networks behind it from now on; repeat or separate by commas.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::cidr)]
    pub cidr: Option<Vec<IpNet>>,
    /// Where it is reached from now on, HOST:PORT; repeat or separate by commas.
    #[arg(long, alias = "listener", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = value::endpoint)]
    pub endpoint: Option<Vec<Endpoint>>,
    /// It is reached from nowhere any more: it dials out.
    #[arg(long, alias = "no-listener", conflicts_with = "endpoint")]
    pub no_endpoint: bool,
    /// A line about it, for people.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

impl EdgeSet {
    /// The endpoints to set: `None` leaves them, an empty list removes them.
    pub fn endpoints(&self) -> Option<Vec<Endpoint>> {
        if self.no_endpoint { Some(Vec::new()) } else { self.endpoint.clone() }
    }
}

/// What is done with routes.
#[derive(Debug, Subcommand)]
pub enum RouteVerb {
    /// Add a network behind an edge, such as a cluster's pods.
    #[command(
        visible_alias = "create",
        after_long_help = "\
Examples:
  cfctl route add pods-hk --namespace prod --cidr 10.244.0.0/16 --edge aws-hk
  cfctl ro add pods-hk -n prod --cidr 10.244.0.0/16 --via aws-hk --wait"
    )]
    Add(RouteAdd),
    /// Remove a route.
    #[command(visible_aliases = ["delete", "rm"], after_long_help = "\
Examples:
  cfctl route del pods-hk -n prod")]
    Del {
        /// Route to remove.
        #[arg(value_parser = value::label)]
        name: Label,
    },
    /// List routes, of one namespace or of all.
    #[command(visible_alias = "ls")]
    List {
        /// Of all namespaces, whatever the context's is.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Show one route.
    Show {
        /// Route to show.
        #[arg(value_parser = value::label)]
        name: Label,
    },
}

/// The arguments of `route add`.
#[derive(Args, Debug)]
pub struct RouteAdd {
    /// Its name: a DNS label of a-z, 0-9 and '-', unique in the namespace.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// Network to reach, such as 10.244.0.0/16.
    #[arg(long, value_name = "CIDR", value_parser = value::cidr)]
    pub cidr: IpNet,
    /// Edge that it lies behind.
    #[arg(long, visible_aliases = ["via", "nexthop"], value_name = "NAME",
          value_parser = value::label)]
    pub edge: Label,
}

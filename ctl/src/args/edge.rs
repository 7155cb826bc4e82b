//! `cfctl edge …` and `cfctl route …`

use cframe_pki::identity::Label;
use cframe_protocol::v1::Endpoint;
use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;

use crate::value;

#[derive(Debug, Subcommand)]
pub enum EdgeVerb {
    /// Add an edge: its name, the networks behind it, and the addresses where others reach it.
    ///
    /// The gateway then joins with a token (`cfctl token create`), or with a certificate of
    /// `cfctl cert enroll`.
    #[command(
        visible_alias = "create",
        after_long_help = "\
Examples:
  cfctl edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58423
  cfctl edge add idc -n prod --cidr 10.60.6.0/24,fd00:60::/64        # behind NAT: it only dials out"
    )]
    Add(EdgeAdd),
    /// Change an edge in one step; its links stay.
    ///
    /// A list replaces the previous one.
    #[command(after_long_help = "\
Examples:
  cfctl edge set aws-hk -n prod --endpoint 198.51.100.9:58423
  cfctl edge set aws-hk -n prod --no-endpoint
  cfctl edge set idc -n prod --no-link-to lab,branch     # neither has an endpoint, and none is needed
  cfctl edge set aws-hk -n prod --cidr 172.30.0.0/16 --cidr 172.31.0.0/16")]
    Set(EdgeSet),
    /// Remove an edge with its routes and tokens.
    ///
    /// Its certificates are revoked for good: they stay revoked when the name is added again.
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
        /// List all namespaces, also when the context has one.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Show one edge with its links and problems.
    Show {
        /// Edge to show.
        #[arg(value_parser = value::label)]
        name: Label,
    },
}

#[derive(Args, Debug)]
pub struct EdgeAdd {
    /// Name: a DNS label of a-z, 0-9 and '-', unique in the namespace.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// Network behind it, such as 172.30.0.0/16; repeat or separate by commas.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::cidr)]
    pub cidr: Vec<IpNet>,
    /// Address where other edges dial it, HOST:PORT; none if it only dials out.
    #[arg(long, alias = "listener", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = value::endpoint)]
    pub endpoint: Vec<Endpoint>,
    /// Text for people, one line.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)
    .args(["cidr", "endpoint", "no_endpoint", "description", "no_link_to", "link_to_all"])))]
pub struct EdgeSet {
    /// Edge to change.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// The networks behind it; repeat or separate by commas.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::cidr)]
    pub cidr: Option<Vec<IpNet>>,
    /// Addresses where other edges dial it, HOST:PORT; repeat or separate by commas.
    #[arg(long, alias = "listener", value_name = "HOST:PORT", value_delimiter = ',',
          value_parser = value::endpoint)]
    pub endpoint: Option<Vec<Endpoint>>,
    /// Remove its endpoints: it only dials out.
    #[arg(long, alias = "no-listener", conflicts_with = "endpoint")]
    pub no_endpoint: bool,
    /// Edges that it needs no link to: a missing one is no problem. Repeat or separate by commas.
    #[arg(long, value_name = "EDGE", value_delimiter = ',', value_parser = value::label)]
    pub no_link_to: Option<Vec<Label>>,
    /// Need links to all edges again.
    #[arg(long, conflicts_with = "no_link_to")]
    pub link_to_all: bool,
    /// Text for people, one line.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

impl EdgeSet {
    /// The edges that it needs no link to. `None` does not change them.
    pub fn no_link_to(&self) -> Option<Vec<Label>> {
        if self.link_to_all { Some(Vec::new()) } else { self.no_link_to.clone() }
    }

    /// The endpoints to set. `None` does not change them.
    pub fn endpoints(&self) -> Option<Vec<Endpoint>> {
        if self.no_endpoint { Some(Vec::new()) } else { self.endpoint.clone() }
    }
}

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
        /// List all namespaces, also when the context has one.
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

#[derive(Args, Debug)]
pub struct RouteAdd {
    /// Name: a DNS label of a-z, 0-9 and '-', unique in the namespace.
    #[arg(value_parser = value::label)]
    pub name: Label,
    /// Network to reach, such as 10.244.0.0/16.
    #[arg(long, value_name = "CIDR", value_parser = value::cidr)]
    pub cidr: IpNet,
    /// Edge in front of it.
    #[arg(long, visible_aliases = ["via", "nexthop"], value_name = "NAME",
          value_parser = value::label)]
    pub edge: Label,
}

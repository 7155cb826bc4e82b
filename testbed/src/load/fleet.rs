//! Creates what is in the mesh by admin calls: namespaces, edges with their certificates, routes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cframe_pki::Serial;
use cframe_pki::identity::Label;
use cframe_pki::key::PrivateKey;
use cframe_protocol::CONTROL_PORT;
use cframe_protocol::session::Client;
use cframe_protocol::v1::{Call, Reply, Settings};
use ipnet::{IpNet, Ipv4Net};

use super::identities::Identities;
use super::lab::{LoadLab, NamespaceSpec};
use super::operator::Operator;

/// The first addresses of the edges' /24s, of the routes' /28s, and of the /28s of the routes that scenarios edit.
const EDGES: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const ROUTES: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);
const EDITED_ROUTES: Ipv4Addr = Ipv4Addr::new(30, 0, 0, 0);

/// An edge with a certificate.
#[derive(Clone, Debug)]
pub(super) struct EnrolledEdge {
    pub(super) name: Label,
    pub(super) client: Client,
}

/// Creates what is missing of a namespace, and returns its first `count` edges.
pub(super) async fn prepare_edges(
    lab: &LoadLab,
    namespace: &NamespaceSpec,
    count: u32,
) -> Result<Vec<EnrolledEdge>> {
    let operator = lab.operator().await?;
    create_missing(&operator, std::slice::from_ref(namespace)).await?;
    enrolled_edges(lab, &operator, namespace, count).await
}

/// Creates what is missing of several namespaces, and returns all their edges.
pub(super) async fn prepare_namespaces(
    lab: &LoadLab,
    namespaces: &[NamespaceSpec],
) -> Result<Vec<EnrolledEdge>> {
    let operator = lab.operator().await?;
    create_missing(&operator, namespaces).await?;
    let mut edges = Vec::new();
    for namespace in namespaces {
        edges.extend(enrolled_edges(lab, &operator, namespace, namespace.edges).await?);
    }
    Ok(edges)
}

/// Adds the route with this number, which overlaps no other.
pub(super) fn route_add(namespace: &NamespaceSpec, number: u32) -> Result<Call> {
    Ok(Call::RouteAdd {
        namespace: namespace.name.clone(),
        name: format!("edit-{number}").parse()?,
        prefix: prefix(EDITED_ROUTES, 28, number)?,
        edge: namespace.edge_name(number % namespace.edges)?,
    })
}

/// Removes what [`route_add`] has added.
pub(super) fn route_del(namespace: &NamespaceSpec, number: u32) -> Result<Call> {
    let name = format!("edit-{number}").parse()?;
    Ok(Call::RouteDel { namespace: namespace.name.clone(), name })
}

/// Gets a new certificate for an edge whose last one was revoked.
pub(super) async fn enrol_again(
    lab: &LoadLab,
    namespace: &NamespaceSpec,
    edge: &Label,
) -> Result<()> {
    let mut identities = Identities::load(&lab.certificates, &namespace.name)?;
    identities.remove(edge);
    identities.save(&lab.certificates, &namespace.name)?;
    let operator = lab.operator().await?;
    enrol_missing(lab, &operator, namespace).await.map(drop)
}

/// The serial of an edge's certificate.
pub(super) fn serial(lab: &LoadLab, namespace: &NamespaceSpec, edge: &Label) -> Result<Serial> {
    let identities = Identities::load(&lab.certificates, &namespace.name)?;
    Ok(identities.credentials(edge)?.identity()?.serial)
}

async fn create_missing(operator: &Operator, namespaces: &[NamespaceSpec]) -> Result<()> {
    let existing = existing_names(operator, Call::NamespaceList).await?;
    let missing = namespaces.iter().filter(|namespace| !existing.contains(&namespace.name));
    let adds = missing.map(|namespace| Call::NamespaceAdd {
        name: namespace.name.clone(),
        settings: Settings::default(),
        description: String::new(),
    });
    operator.call_all(adds.collect()).await?;
    let mut lists = Vec::new();
    for namespace in namespaces {
        lists.push(missing_edges(operator, namespace).await?);
    }
    // One edge of each namespace in turn: calls for different namespaces share the store's commits.
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let edges = (0..longest).flat_map(|index| lists.iter().filter_map(move |list| list.get(index)));
    operator.call_all(edges.cloned().collect()).await?;
    for namespace in namespaces.iter().filter(|namespace| namespace.routes > 0) {
        let routes = missing_routes(operator, namespace).await?;
        if !routes.is_empty() {
            let (start, count) = (Instant::now(), routes.len());
            operator.call_all(routes).await?;
            println!("  ({count} routes were added in {:.1} s)", start.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

async fn missing_edges(operator: &Operator, namespace: &NamespaceSpec) -> Result<Vec<Call>> {
    let list = Call::EdgeList { namespace: Some(namespace.name.clone()) };
    let existing = existing_names(operator, list).await?;
    let mut calls = Vec::new();
    for index in 0..namespace.edges {
        let name = namespace.edge_name(index)?;
        if !existing.contains(&name) {
            calls.push(Call::EdgeAdd {
                namespace: namespace.name.clone(),
                name,
                cidrs: vec![prefix(EDGES, 24, index)?],
                endpoints: vec![format!("198.18.{}.{}:58423", index >> 8, index & 255).parse()?],
                description: String::new(),
            });
        }
    }
    Ok(calls)
}

async fn missing_routes(operator: &Operator, namespace: &NamespaceSpec) -> Result<Vec<Call>> {
    let list = Call::RouteList { namespace: Some(namespace.name.clone()) };
    let existing = existing_names(operator, list).await?;
    let mut calls = Vec::new();
    for index in 0..namespace.routes {
        let name: Label = format!("route-{index:06}").parse()?;
        if !existing.contains(&name) {
            calls.push(Call::RouteAdd {
                namespace: namespace.name.clone(),
                name,
                prefix: prefix(ROUTES, 28, index)?,
                edge: namespace.edge_name(index % namespace.edges)?,
            });
        }
    }
    Ok(calls)
}

async fn existing_names(operator: &Operator, list: Call) -> Result<BTreeSet<Label>> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other reply is a list with names")]
    Ok(match operator.call(list).await? {
        Reply::Namespaces(rows) => rows.into_iter().map(|row| row.name).collect(),
        Reply::Edges(rows) => rows.into_iter().map(|row| row.name).collect(),
        Reply::Routes(rows) => rows.into_iter().map(|row| row.name).collect(),
        other => bail!("not a list: {other:?}"),
    })
}

async fn enrolled_edges(
    lab: &LoadLab,
    operator: &Operator,
    namespace: &NamespaceSpec,
    count: u32,
) -> Result<Vec<EnrolledEdge>> {
    let identities = enrol_missing(lab, operator, namespace).await?;
    (0..count.min(namespace.edges))
        .map(|index| {
            let name = namespace.edge_name(index)?;
            let client = identities.client(&name, namespace.controller(index, CONTROL_PORT))?;
            Ok(EnrolledEdge { name, client })
        })
        .collect()
}

/// Gets certificates for the edges that have none stored here.
async fn enrol_missing(
    lab: &LoadLab,
    operator: &Operator,
    namespace: &NamespaceSpec,
) -> Result<Identities> {
    let mut identities = Identities::load(&lab.certificates, &namespace.name)?;
    let (mut new, mut calls) = (Vec::new(), Vec::new());
    for index in 0..namespace.edges {
        let name = namespace.edge_name(index)?;
        if !identities.contains(&name) {
            let key = PrivateKey::generate()?;
            let (namespace, edge) = (namespace.name.clone(), name.clone());
            calls.push(Call::CertEnroll { namespace, edge, csr: key.csr()?.to_vec() });
            new.push((name, key));
        }
    }
    if new.is_empty() {
        return Ok(identities);
    }
    for ((name, key), reply) in new.into_iter().zip(operator.call_all(calls).await?) {
        let Reply::Enrolled(enrolled) = reply else { bail!("not a certificate: {reply:?}") };
        identities.insert(name, &key, enrolled);
    }
    identities.save(&lab.certificates, &namespace.name)?;
    Ok(identities)
}

/// The prefix with index `number` among those of one length from `first` on.
fn prefix(first: Ipv4Addr, length: u8, number: u32) -> Result<IpNet> {
    let step = 1_u32.checked_shl(32 - u32::from(length)).context("a prefix length")?;
    let address = number.checked_mul(step).and_then(|offset| first.to_bits().checked_add(offset));
    let address = Ipv4Addr::from_bits(address.context("too many prefixes")?);
    Ok(Ipv4Net::new(address, length)?.into())
}

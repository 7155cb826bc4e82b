//! Making what is in the mesh, by admin calls: namespaces, edges with their certificates, routes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use cframe_pki::identity::Label;
use cframe_pki::key::PrivateKey;
use cframe_protocol::CONTROL_PORT;
use cframe_protocol::session::Client;
use cframe_protocol::v1::{Call, Reply, Settings};
use ipnet::{IpNet, Ipv4Net};

use super::identities::Identities;
use super::operator::Operator;
use super::world::{Space, World};

/// Sites are /24s from here, routes /28s from there.
const SITES: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const ROUTES: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);

/// An edge that can have a session.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: Label,
    pub(super) client: Client,
}

/// The first edges of a namespace, which is made as far as it isn't there.
pub(super) async fn muster(world: &World, space: &Space, count: u32) -> Result<Vec<Member>> {
    let operator = world.operator().await?;
    make(&operator, space).await?;
    let identities = enrol(world, &operator, space).await?;
    (0..count.min(space.edges))
        .map(|index| {
            let name = space.edge(index)?;
            let client = identities.client(&name, space.controller(index, CONTROL_PORT))?;
            Ok(Member { name, client })
        })
        .collect()
}

/// All edges of several namespaces.
pub(super) async fn muster_all(world: &World, spaces: &[Space]) -> Result<Vec<Member>> {
    let operator = world.operator().await?;
    // Together: calls for different namespaces share the store's commits.
    make_all(&operator, spaces).await?;
    let mut members = Vec::new();
    for space in spaces {
        members.extend(muster(world, space, space.edges).await?);
    }
    Ok(members)
}

/// What a route's edit is, number by number: it is behind one of the edges, and in nobody's way.
pub(super) fn edit(space: &Space, number: u32) -> Result<Call> {
    Ok(Call::RouteAdd {
        namespace: space.namespace.clone(),
        name: format!("edit-{number}").parse()?,
        prefix: net(Ipv4Addr::new(30, 0, 0, 0), 28, number)?,
        edge: space.edge(number % space.edges)?,
    })
}

/// The other way.
pub(super) fn undo(space: &Space, number: u32) -> Result<Call> {
    let name = format!("edit-{number}").parse()?;
    Ok(Call::RouteDel { namespace: space.namespace.clone(), name })
}

async fn make(operator: &Operator, space: &Space) -> Result<()> {
    make_all(operator, std::slice::from_ref(space)).await
}

async fn make_all(operator: &Operator, spaces: &[Space]) -> Result<()> {
    let Reply::Namespaces(rows) = operator.call(Call::NamespaceList).await? else {
        bail!("the answer to namespace-list is none")
    };
    let there: BTreeSet<Label> = rows.into_iter().map(|row| row.name).collect();
    let new = spaces.iter().filter(|space| !there.contains(&space.namespace));
    let namespaces = new.map(|space| Call::NamespaceAdd {
        name: space.namespace.clone(),
        settings: Settings::default(),
        description: String::new(),
    });
    operator.bulk(namespaces.collect()).await?;
    let mut lists = Vec::new();
    for space in spaces {
        lists.push(missing_edges(operator, space).await?);
    }
    // In turns, so that calls that wait for each other are not beside each other.
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let edges = (0..longest).flat_map(|index| lists.iter().filter_map(move |list| list.get(index)));
    operator.bulk(edges.cloned().collect()).await?;
    for space in spaces.iter().filter(|space| space.routes > 0) {
        let routes = missing_routes(operator, space).await?;
        if !routes.is_empty() {
            let (begun, count) = (Instant::now(), routes.len());
            operator.bulk(routes).await?;
            let took = begun.elapsed().as_secs_f64();
            println!("  ({count} routes were added in {took:.1} s)");
        }
    }
    Ok(())
}

async fn missing_edges(operator: &Operator, space: &Space) -> Result<Vec<Call>> {
    let list = Call::EdgeList { namespace: Some(space.namespace.clone()) };
    let Reply::Edges(rows) = operator.call(list).await? else {
        bail!("the answer to edge-list is none")
    };
    let there: BTreeSet<Label> = rows.into_iter().map(|row| row.name).collect();
    let mut calls = Vec::new();
    for index in 0..space.edges {
        let name = space.edge(index)?;
        if !there.contains(&name) {
            calls.push(Call::EdgeAdd {
                namespace: space.namespace.clone(),
                name,
                cidrs: vec![net(SITES, 24, index)?],
                endpoints: vec![format!("198.18.{}.{}:58423", index >> 8, index & 255).parse()?],
                description: String::new(),
            });
        }
    }
    Ok(calls)
}

async fn missing_routes(operator: &Operator, space: &Space) -> Result<Vec<Call>> {
    let list = Call::RouteList { namespace: Some(space.namespace.clone()) };
    let Reply::Routes(rows) = operator.call(list).await? else {
        bail!("the answer to route-list is none")
    };
    let there: BTreeSet<Label> = rows.into_iter().map(|row| row.name).collect();
    let mut calls = Vec::new();
    for index in 0..space.routes {
        let name: Label = format!("route-{index:06}").parse()?;
        if !there.contains(&name) {
            calls.push(Call::RouteAdd {
                namespace: space.namespace.clone(),
                name,
                prefix: net(ROUTES, 28, index)?,
                edge: space.edge(index % space.edges)?,
            });
        }
    }
    Ok(calls)
}

/// Has certificates made for the edges that have none here.
async fn enrol(world: &World, operator: &Operator, space: &Space) -> Result<Identities> {
    let mut identities = Identities::load(&world.certificates, &space.namespace)?;
    let names: Vec<Label> =
        (0..space.edges).map(|index| space.edge(index)).collect::<Result<_>>()?;
    let new: Vec<Label> = names.into_iter().filter(|name| !identities.has(name)).collect();
    if new.is_empty() {
        return Ok(identities);
    }
    let keys: Vec<PrivateKey> =
        new.iter().map(|_| Ok(PrivateKey::generate()?)).collect::<Result<_>>()?;
    let call = |(name, key): (&Label, &PrivateKey)| {
        let (namespace, edge) = (space.namespace.clone(), name.clone());
        Ok(Call::CertEnroll { namespace, edge, csr: key.csr()?.to_vec() })
    };
    let calls: Vec<Call> = new.iter().zip(&keys).map(call).collect::<Result<_>>()?;
    for ((name, key), reply) in new.iter().zip(&keys).zip(operator.bulk(calls).await?) {
        let Reply::Enrolled(enrolled) = reply else { bail!("not a certificate: {reply:?}") };
        identities.put(name.clone(), key, enrolled);
    }
    identities.save(&world.certificates, &space.namespace)?;
    Ok(identities)
}

/// A new certificate for an edge whose last one was revoked.
pub(super) async fn enrol_again(world: &World, space: &Space, edge: &Label) -> Result<()> {
    let mut identities = Identities::load(&world.certificates, &space.namespace)?;
    identities.forget(edge);
    identities.save(&world.certificates, &space.namespace)?;
    let operator = world.operator().await?;
    enrol(world, &operator, space).await.map(drop)
}

/// The serial of an edge's certificate.
pub(super) fn serial(world: &World, space: &Space, edge: &Label) -> Result<cframe_pki::Serial> {
    let identities = Identities::load(&world.certificates, &space.namespace)?;
    Ok(identities.credentials(edge)?.identity()?.serial)
}

fn net(first: Ipv4Addr, length: u8, number: u32) -> Result<IpNet> {
    let step = 1_u32.checked_shl(32 - u32::from(length)).context("a prefix length")?;
    let address = number.checked_mul(step).and_then(|offset| first.to_bits().checked_add(offset));
    let address = Ipv4Addr::from_bits(address.context("too many prefixes")?);
    Ok(Ipv4Net::new(address, length)?.into())
}

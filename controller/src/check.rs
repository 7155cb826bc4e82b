//! What a write is checked for. Pure; every refusal names both sides and what to do.
//!
//! Prefixes of one edge may lie within each other: a pod network inside the site's own range changes
//! nothing, and is warned of. The same prefix twice is refused, so that each has one source and removing
//! one thing never takes away another's.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{CallError, Endpoint, ErrorCode};
use ipnet::IpNet;

use crate::model::{Namespace, Source, State};

mod reserved;
mod similar;
#[cfg(test)]
mod tests;

pub use similar::closest;

/// The most prefixes or endpoints that one call may give to an edge.
const MAX_LIST: usize = 64;
/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 512;

/// A value breaks a rule.
pub fn invalid(message: impl Into<String>) -> CallError {
    CallError::new(ErrorCode::Invalid, message)
}

/// It is there already, or clashes with something that is.
pub fn conflict(message: impl Into<String>) -> CallError {
    CallError::new(ErrorCode::Conflict, message)
}

/// There is no such thing; suggests the closest name among those that there are.
pub fn not_found<'a>(
    what: &str,
    name: &str,
    whereabouts: &str,
    names: impl IntoIterator<Item = &'a Label>,
) -> CallError {
    let mut error = CallError::new(ErrorCode::NotFound, format!("no {what} {name}{whereabouts}"));
    error.hint = closest(name, names.into_iter().map(Label::as_str))
        .map(|near| format!("did you mean {near}?"));
    error
}

/// The namespace, or a refusal.
///
/// # Errors
/// If there is none of that name.
pub fn namespace<'a>(state: &'a State, name: &Label) -> Result<&'a Namespace, CallError> {
    let found = state.namespaces.get(name);
    found.ok_or_else(|| not_found("namespace", name.as_str(), "", state.namespaces.keys()))
}

/// The MTU of the TUN devices: at least what IPv6 needs, at most Ethernet's.
///
/// # Errors
/// If it is outside of that.
pub fn tun_mtu(mtu: u16) -> Result<(), CallError> {
    if (1280..=1500).contains(&mtu) {
        return Ok(());
    }
    Err(invalid(format!("TUN MTU {mtu} is out of range: give a value from 1280 to 1500")))
}

/// A text for people.
///
/// # Errors
/// If it is too long or has control characters.
pub fn description(text: &str) -> Result<(), CallError> {
    if text.len() > MAX_DESCRIPTION {
        return Err(invalid(format!(
            "the description has {} bytes; {MAX_DESCRIPTION} are allowed",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid("the description has control characters; write it on one line"));
    }
    Ok(())
}

/// One prefix by itself: canonical, and one that hosts of a site may have.
///
/// # Errors
/// If it has host bits, or has an address that is nobody's own.
pub fn prefix(net: IpNet) -> Result<(), CallError> {
    if net != net.trunc() {
        return Err(invalid(format!("{net} has host bits set; write {}", net.trunc())));
    }
    match reserved::overlapping(net) {
        None => Ok(()),
        Some(what) => Err(invalid(format!(
            "{net} cannot be a site's prefix: {what}; give the ranges that hosts of the site have"
        ))),
    }
}

/// The endpoints of an edge.
///
/// # Errors
/// If there are too many, or one twice.
pub fn endpoints(list: &[Endpoint]) -> Result<(), CallError> {
    if list.len() > MAX_LIST {
        return Err(invalid(format!("{} endpoints; {MAX_LIST} are allowed", list.len())));
    }
    for (index, endpoint) in list.iter().enumerate() {
        if list[..index].contains(endpoint) {
            return Err(invalid(format!("endpoint {endpoint} is given twice; give it once")));
        }
    }
    Ok(())
}

/// Whether an edge may have these as its own prefixes, in place of those it has. Answers with warnings.
///
/// # Errors
/// Naming the prefix and what it clashes with.
pub fn edge_prefixes(
    space: &Namespace,
    edge: &Label,
    cidrs: &[IpNet],
) -> Result<Vec<String>, CallError> {
    if cidrs.len() > MAX_LIST {
        return Err(invalid(format!(
            "{} prefixes; {MAX_LIST} are allowed, add more by `cfctl route add`",
            cidrs.len()
        )));
    }
    let mut warnings = Vec::new();
    for (index, net) in cidrs.iter().enumerate() {
        if cidrs[..index].contains(net) {
            return Err(invalid(format!("{net} is given twice; give it once")));
        }
        let replaced = |source: &Source| source.edge == *edge && source.route.is_none();
        warnings.extend(one_prefix(space, edge, *net, replaced)?);
        if let Some(wider) = cidrs.iter().find(|other| *other != net && other.contains(net)) {
            warnings.push(format!("{net} is within {wider} of the same edge and changes nothing"));
        }
    }
    Ok(warnings)
}

/// Whether an edge may have this prefix by a route. Answers with warnings.
///
/// # Errors
/// Naming the prefix and what it clashes with.
pub fn route_prefix(space: &Namespace, edge: &Label, net: IpNet) -> Result<Vec<String>, CallError> {
    one_prefix(space, edge, net, |_| false)
}

fn one_prefix(
    space: &Namespace,
    edge: &Label,
    net: IpNet,
    replaced: impl Fn(&Source) -> bool,
) -> Result<Vec<String>, CallError> {
    prefix(net)?;
    let mut warnings = Vec::new();
    for (other, source) in space.prefixes.overlapping(net) {
        if replaced(source) {
            continue;
        }
        if source.edge != *edge {
            return Err(conflict(format!(
                "{net} of edge {edge} overlaps {other} of {}; prefixes of two edges must not share an \
                 address",
                source.describe()
            )));
        }
        if other == net {
            return Err(conflict(format!("{net} is already there, by {}", source.describe())));
        }
        if other.contains(&net) && warnings.is_empty() {
            let by = source.describe();
            warnings.push(format!("{net} is within {other} of {by} and changes nothing"));
        }
    }
    Ok(warnings)
}

/// Warnings about a new prefix that has the address of an edge or a controller: allowed, because
/// the edges' own packets leave by a marked socket, and yet often a slip.
pub fn captured_endpoints(state: &State, space: &Namespace, net: IpNet) -> Vec<String> {
    let edges = space.edges.iter().flat_map(|(name, edge)| {
        edge.record.endpoints.iter().map(move |endpoint| (endpoint, format!("edge {name}")))
    });
    let controllers = state.mesh.record.controllers.iter();
    let controllers = controllers.map(|endpoint| (endpoint, "a controller".to_owned()));
    edges
        .chain(controllers)
        .filter(|(endpoint, _)| endpoint.ip().is_some_and(|ip| net.contains(&ip)))
        .map(|(endpoint, whose)| captured(net, endpoint, &whose))
        .collect()
}

/// Warnings about an edge's new endpoints: in a prefix of the namespace, or on the loopback.
pub fn endpoints_captured(
    space: &Namespace,
    edge: &Label,
    endpoints: &[Endpoint],
    own: &[IpNet],
) -> Vec<String> {
    let warning = |endpoint: &Endpoint| {
        let ip = endpoint.ip()?;
        if ip.is_loopback() {
            return Some(format!("endpoint {endpoint} can be dialled on the same host alone"));
        }
        // The edge's own prefixes are these, not those that the namespace has of it so far.
        let own = own.iter().copied().find(|net| net.contains(&ip));
        let others = || space.prefixes.matching(ip).filter(|(_, source)| source.edge != *edge);
        let net = own.or_else(|| others().map(|(net, _)| net))?;
        Some(captured(net, endpoint, &format!("edge {edge}")))
    };
    endpoints.iter().filter_map(warning).collect()
}

fn captured(net: IpNet, endpoint: &Endpoint, whose: &str) -> String {
    format!(
        "{net} has the endpoint {endpoint} of {whose} in it: the tunnel's own packets still take the \
         underlay, but hosts behind other edges reach that address through the mesh"
    )
}

/// A warning about an edge without endpoints that has peers without any: neither can dial the other.
pub fn unreachable_pairs(
    space: &Namespace,
    edge: &Label,
    endpoints: &[Endpoint],
) -> Option<String> {
    if !endpoints.is_empty() {
        return None;
    }
    let silent = space
        .edges
        .iter()
        .filter(|(name, other)| *name != edge && other.record.endpoints.is_empty());
    let names: Vec<&str> = silent.map(|(name, _)| name.as_str()).collect();
    let shown = match names.as_slice() {
        [] => return None,
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        few => few.join(", "),
    };
    Some(format!(
        "neither {edge} nor {shown} has an endpoint: no link between them until one has \
         (`cfctl edge set --endpoint HOST:PORT`)"
    ))
}

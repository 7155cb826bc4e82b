//! Checks of what a call wants to write. Every refusal names both sides and what to do.
//!
//! Prefixes of one edge may contain each other: a pod network within the site's own range changes nothing, and gets a
//! warning. The same prefix twice is refused, so that each prefix has one source, and removing one never removes
//! another.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{CallError, Endpoint, ErrorCode};
use ipnet::IpNet;

use crate::model::{Namespace, Source, State};

mod reach;
mod reserved;
mod similar;
#[cfg(test)]
mod tests;

pub use reach::{prefix_warnings, prefixes_around_endpoints, shared_endpoints, unreachable_pairs};
pub use similar::closest;

/// Prefixes or endpoints of one edge in one call.
const MAX_LIST: usize = 64;
/// Bytes.
const MAX_DESCRIPTION: usize = 512;

pub fn invalid(message: impl Into<String>) -> CallError {
    CallError::new(ErrorCode::Invalid, message)
}

pub fn conflict(message: impl Into<String>) -> CallError {
    CallError::new(ErrorCode::Conflict, message)
}

/// Suggests the closest of `names`.
pub fn not_found<'a>(
    what: &str,
    name: &str,
    place: &str,
    names: impl IntoIterator<Item = &'a Label>,
) -> CallError {
    let mut error = CallError::new(ErrorCode::NotFound, format!("no {what} {name}{place}"));
    error.hint = closest(name, names.into_iter().map(Label::as_str))
        .map(|near| format!("did you mean {near}?"));
    error
}

pub fn namespace<'a>(state: &'a State, name: &Label) -> Result<&'a Namespace, CallError> {
    let found = state.namespaces.get(name);
    found.ok_or_else(|| not_found("namespace", name.as_str(), "", state.namespaces.keys()))
}

/// One namespace, or all.
pub(crate) fn namespaces<'a>(
    state: &'a State,
    name: Option<&'a Label>,
) -> Result<impl Iterator<Item = (&'a Label, &'a Namespace)>, CallError> {
    if let Some(name) = name {
        namespace(state, name)?;
    }
    let is_wanted = move |found: &Label| name.is_none_or(|name| name == found);
    Ok(state.namespaces.iter().filter(move |(found, _)| is_wanted(found)))
}

/// At least the minimum of IPv6, at most Ethernet's.
pub fn tun_mtu(mtu: u16) -> Result<(), CallError> {
    if (1280..=1500).contains(&mtu) {
        return Ok(());
    }
    Err(invalid(format!("TUN MTU {mtu} is out of range: give a value from 1280 to 1500")))
}

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

/// A prefix must have no host bits and no reserved addresses.
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

/// Whether an edge may have these as its own prefixes, instead of those that it has. Returns warnings.
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

/// Whether an edge may have this prefix by a route. Returns warnings.
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

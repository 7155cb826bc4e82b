//! Calls that many tests make.

use cframe_pki::identity::Label;
use cframe_protocol::v1::Call;

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

pub(crate) fn namespace_add(name: &str) -> Call {
    let (settings, description) = Default::default();
    Call::NamespaceAdd { name: label(name), settings, description }
}

/// An edge with one prefix and one endpoint.
pub(crate) fn edge_add(namespace: &str, name: &str, cidr: &str) -> Call {
    Call::EdgeAdd {
        namespace: label(namespace),
        name: label(name),
        cidrs: vec![cidr.parse().unwrap()],
        endpoints: vec![format!("{name}.example.com:58423").parse().unwrap()],
        description: String::new(),
    }
}

/// Removes an edge of namespace `prod`.
pub(crate) fn edge_del(name: &str) -> Call {
    Call::EdgeDel { namespace: label("prod"), name: label(name) }
}

/// A route to an edge of namespace `prod`.
pub(crate) fn route_add(name: &str, prefix: &str, edge: &str) -> Call {
    Call::RouteAdd {
        namespace: label("prod"),
        name: label(name),
        prefix: prefix.parse().unwrap(),
        edge: label(edge),
    }
}

/// A token for an edge of namespace `prod`.
pub(crate) fn token_create(edge: &str, rejoin: bool) -> Call {
    Call::TokenCreate { namespace: label("prod"), edge: label(edge), ttl_secs: 600, rejoin }
}

/// Changes only the description of an edge of namespace `prod`.
pub(crate) fn edge_describe(name: &str, description: &str) -> Call {
    Call::EdgeSet {
        namespace: label("prod"),
        name: label(name),
        cidrs: None,
        endpoints: None,
        description: Some(description.to_owned()),
        no_link_to: None,
    }
}

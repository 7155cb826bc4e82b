//! What is wrong with this edge, as sentences for `status`.

use cframe_pki::{identity::Label, unix_now};
use cframe_protocol::v1::Desired;

use super::{EdgeProcess, identity::expiry};

impl EdgeProcess {
    /// `route_error`: what the kernel refuses.
    pub(super) fn problems(&self, route_error: Option<&str>) -> Vec<String> {
        let renewal_error = self.identity.renewal.error.as_ref();
        let mut problems = Vec::new();
        problems.extend(route_error.map(|error| format!("the kernel refuses routes: {error}")));
        problems
            .extend(renewal_error.map(|error| format!("the certificate was not renewed: {error}")));
        problems.extend(expiry(&self.identity.certificate(), unix_now()));
        problems.extend(no_endpoints(&self.identity.name, &self.desired.applied));
        problems
    }
}

/// Peers that no link is possible with, because neither side can be dialled.
fn no_endpoints(own: &Label, desired: &Desired) -> Vec<String> {
    let without =
        |name: &Label| desired.edges.get(name).is_some_and(|state| state.endpoints.is_empty());
    if !without(own) {
        return Vec::new();
    }
    let peers = desired.edges.keys().filter(|name| *name != own && without(name));
    let sentence = |name: &Label| {
        format!(
            "neither this edge nor {name} has an endpoint, so no link is possible: \
             give one of them an endpoint (cfctl edge set)"
        )
    };
    peers.map(sentence).collect()
}

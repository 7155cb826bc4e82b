//! What is wrong with this edge, as sentences for `status`. Pure: each problem is judged from what the
//! parts report.

use cframe_pki::{
    identity::{Label, PeerIdentity},
    renewal::{days_left, expires_soon},
};
use cframe_protocol::v1::Desired;

/// What the problems are judged from.
pub(super) struct Observed<'a> {
    pub(super) own: &'a Label,
    pub(super) desired: &'a Desired,
    pub(super) certificate: &'a PeerIdentity,
    /// Now, in Unix seconds.
    pub(super) clock: u64,
    pub(super) renewal_error: Option<&'a str>,
    pub(super) route_error: Option<&'a str>,
    pub(super) snat_error: Option<&'a str>,
}

pub(super) fn problems(observed: &Observed<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    problems
        .extend(observed.route_error.map(|error| format!("the kernel refuses routes: {error}")));
    problems.extend(observed.snat_error.map(str::to_owned));
    problems.extend(
        observed.renewal_error.map(|error| format!("the certificate was not renewed: {error}")),
    );
    problems.extend(expiry(observed.certificate, observed.clock));
    problems.extend(no_endpoints(observed.own, observed.desired));
    problems
}

/// The certificate has expired, or expires soon. `clock` is in Unix seconds.
pub(super) fn expiry(certificate: &PeerIdentity, clock: u64) -> Option<String> {
    let PeerIdentity { not_before, not_after, .. } = *certificate;
    if clock > not_after {
        return Some(
            "the certificate has expired: controllers and peers refuse it; join again: \
             cfctl token create --rejoin, then cframe-edge join TOKEN"
                .to_owned(),
        );
    }
    expires_soon(not_before, not_after, clock).then(|| {
        format!(
            "the certificate expires in {} days and was not renewed: is a controller reachable?",
            days_left(not_after, clock)
        )
    })
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

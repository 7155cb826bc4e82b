//! What is wrong, judged from facts in one place. Pure.
//!
//! Each area of the process measures its facts; `status`, `doctor`, metrics, the log and the controllers
//! show what is found here.

pub mod firewall;
pub mod forwarding;
pub mod links;
pub mod own;
mod routing;

use crate::{
    host::{firewall::FirewallFacts, probe::facts::ForwardingFacts, routes::RoutingFacts},
    problem::Check,
};
use links::LinkFacts;
use own::OwnFacts;

/// What was measured on this host and on its links.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub own: OwnFacts,
    pub links: LinkFacts,
    pub routing: Option<RoutingFacts>,
    pub firewall: Option<FirewallFacts>,
    /// `None` before the first measurement.
    pub forwarding: Option<ForwardingFacts>,
}

/// All checks, in the order in which one would fix them.
pub fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = own::checks(&facts.own);
    let marked = facts.routing.as_ref().map_or(&[][..], |routing| &routing.marked);
    checks.extend(links::checks(&facts.links, marked));
    let guarded = facts.forwarding.as_ref().and_then(ForwardingFacts::guarded);
    checks.extend(facts.routing.iter().flat_map(|facts| routing::checks(facts, guarded)));
    checks.extend(facts.firewall.iter().flat_map(firewall::checks));
    checks.extend(facts.forwarding.iter().flat_map(forwarding::checks));
    checks
}

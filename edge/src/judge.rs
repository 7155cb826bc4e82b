//! What is wrong, judged from facts in one place. Pure.
//!
//! Each area of the process measures its facts; `status`, `doctor`, metrics, the log and the controllers
//! show what is found here.

pub mod forwarding;
pub mod links;
pub mod own;

use crate::problem::Check;
use forwarding::ForwardingFacts;
use links::LinkFacts;
use own::OwnFacts;

/// What was measured on this host and on its links.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub own: OwnFacts,
    pub links: LinkFacts,
    /// `None` before the first measurement.
    pub forwarding: Option<ForwardingFacts>,
}

/// All checks, in the order in which one would fix them.
pub fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = own::checks(&facts.own);
    checks.extend(links::checks(&facts.links));
    checks.extend(facts.forwarding.iter().flat_map(forwarding::checks));
    checks
}
